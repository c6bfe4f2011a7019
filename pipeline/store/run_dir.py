"""A run directory as its writers see it: create, commit, what is done, failures.

Knows names, footers and how to tell a good file from a bad one. Does not know configs, models or how an item is
computed; plain values come in.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.core.graph import Graph
from pipeline.core.items import Item
from pipeline.core.prompts import TokenPair
from pipeline.core.scores import EdgeScores, NodeScores

Payload = EdgeScores | NodeScores | pa.Table | Mapping[str, np.ndarray]


class RunDirectory:
    """The directory at `path`; make one with `create` or `open`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @staticmethod
    def create(
        path: str | Path,
        *,
        run_yaml: str,
        manifest: dict[str, Any],
        plan: dict[str, Any],
        graph: Graph,
        prompts: Mapping[str, Sequence[Sequence[TokenPair]]],
        extend: bool = False,
    ) -> "RunDirectory":
        """The directory with everything that planning knows in it. One that exists is taken when its run key is
        the same, or when `extend` and model and graph are; else RunDirectoryError names what differs."""
        raise NotImplementedError

    @staticmethod
    def open(path: str | Path) -> "RunDirectory":
        """An existing run; RunDirectoryError when there is none."""
        raise NotImplementedError

    @cached_property
    def manifest(self) -> dict[str, Any]: ...

    @cached_property
    def graph(self) -> Graph: ...

    @cached_property
    def items(self) -> tuple[Item, ...]:
        """All items of the plan, in the order of execution."""
        raise NotImplementedError

    @cached_property
    def item_keys(self) -> dict[Item, str]: ...

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Owns the directory; RunDirectoryError when a live process does."""
        yield

    def done(self, items: Iterable[Item] | None = None, *, deep: bool = False, rename: bool = True) -> set[Item]:
        """The items whose files are good by their footers (`deep`: by their checksums too). Bad files are renamed
        `_bad-...`, unless `rename` is false."""
        raise NotImplementedError

    def commit(self, item: Item, payload: Payload, footer: Mapping[str, Any] | None = None) -> Path:
        """Writes the item's file atomically. `footer`: keys without the `circuits.` prefix; what the manifest knows
        (model, task, method, seed, keys ...) is added here."""
        raise NotImplementedError

    def prompts(self, task: str, shard: int | None = None) -> list[TokenPair]:
        """The prompts of a shard, or of the whole task; needs no tokenizer."""
        raise NotImplementedError

    def statistics(self, task: str) -> dict[str, np.ndarray] | None:
        """The means that were committed for a task, or None."""
        raise NotImplementedError

    def record_failure(self, item: Item, attempt: int, info: Mapping[str, Any]) -> Path: ...

    def failures(self) -> list[dict[str, Any]]:
        """Every failure record, with its item's fields, name and attempt, ordered by item and attempt."""
        raise NotImplementedError

    def clear_failures(self, items: Iterable[Item] | None = None) -> None: ...
