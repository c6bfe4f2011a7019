"""What planning leaves in a run directory: the plan, the graph, the prompts.

Knows these files, their order, and how they are read back. Does not know items that are done.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.documents import parse_json
from pipeline.core.errors import RunDirectoryError, StorageError
from pipeline.core.graph import Graph
from pipeline.core.items import Item
from pipeline.core.prompts import TokenPair
from pipeline.store.place.atomic import write_atomic, write_json
from pipeline.store.place.seal import has_seal, sealed_text, without_seal
from pipeline.store.place.where import Place
from pipeline.store.run.files import DamagedFileError, read_footer, read_parquet, write_parquet
from pipeline.store.run.limits import FILE as LIMITS
from pipeline.store.run.limits import read_limits
from pipeline.store.run.manifest import problem_of
from pipeline.store.run.prompt_scores import SIZES
from pipeline.store.run.prompts_file import Prompts, parts_of, read_prompts, write_prompts
from pipeline.store.run.schema import SCHEMA_VERSION
from pipeline.store.run.tables import graph_table, nodes_table, prompts_of

MOST_BYTES = 1 << 30  # of a text file; a plan of a million items has a quarter of it

_NAMES = {"run.yaml", "plan.json", "graph.parquet", "nodes.parquet", "prompts.parquet", LIMITS}


def write_plan(
    path: Place,
    *,
    run_yaml: str,
    manifest: dict[str, Any],
    plan: dict[str, Any],
    graph: Graph,
    prompts: Prompts,
) -> None:
    """Everything that planning writes; the manifest last, so that a directory with one is complete. The plan comes
    before the config: where an extension is killed between the two and the manifest, it tells what was meant."""
    facts = {
        "schema_version": SCHEMA_VERSION,
        "run_key": manifest["run_key"],
        "graph_fingerprint": graph.fingerprint,
    }
    writers: dict[str, Callable[[Place], None]] = {
        "graph.parquet": lambda target: write_parquet(target, graph_table(graph), facts),
        "nodes.parquet": lambda target: write_parquet(target, nodes_table(graph), facts),
        "prompts.parquet": lambda target: write_prompts(target, prompts, facts),
    }
    for name, write in writers.items():
        if not _holds_facts(path / name, facts):  # a large graph is not written twice
            write(path / name)
    write_json(path / "plan.json", plan)
    write_atomic(path / "run.yaml", sealed_text(run_yaml, "# {}"))
    write_json(path / "manifest.json", manifest)


class _TornError(RunDirectoryError):
    """A file of planning that is torn or gone."""


class TornManifestError(RunDirectoryError):
    """A run whose manifest is torn or gone, and can be written anew from the rest of what planning wrote."""


def recorded_key(path: Place) -> str | None:
    """The run key of a directory by what planning has written beside the manifest; None where nothing tells."""
    key: Any = PlannedRun(path).planned_key
    for name in ("prompts.parquet", "graph.parquet"):
        if key is None:
            with contextlib.suppress(DamagedFileError, FileNotFoundError):
                key = read_footer(path / name).get("run_key")
    return key if isinstance(key, str) else None


def strangers(path: Place) -> str:
    """A name in a folder without a manifest that no interrupted planning leaves behind, or "". A run that has lost its
    manifest holds none."""
    if path.is_dir() and recorded_key(path) is not None:
        return ""
    if not path.is_dir():
        return "a file of that name"
    return next(
        (entry.name for entry in path.iterdir() if not (entry.name[0] == "." or entry.name in _NAMES)), ""
    )


def _holds_facts(path: Place, facts: Mapping[str, Any]) -> bool:
    """Whether a good file with these facts in its footer is there."""
    try:
        footer = read_footer(path)
        if path.name == "prompts.parquet":
            for _ in read_prompts(path):
                pass
        else:
            read_parquet(path)
    except (DamagedFileError, FileNotFoundError):
        return False
    return all(footer.get(key) == str(value) for key, value in facts.items())


class PlannedRun:
    """The directory at `path` as far as planning has made it; files are read when asked for, and once."""

    def __init__(self, path: Place) -> None:
        self.path = path

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """What the run is. RunDirectoryError for one of another version, or that does not say what it must."""
        path = self.path / "manifest.json"
        try:
            manifest = self._json("manifest.json")
        except _TornError:
            if recorded_key(self.path) is None:
                raise
            raise TornManifestError(
                f"{path}: torn or gone; circuits resume {self.path} writes it anew"
            ) from None
        version = manifest.get("schema_version")
        if version != SCHEMA_VERSION:
            raise RunDirectoryError(
                f"{self.path}: was written with schema version {version}, this is {SCHEMA_VERSION}; run "
                "the config again into a new directory"
            )
        if problem := problem_of(manifest):
            raise RunDirectoryError(f"{path}: {problem}; run the config again into a new directory")
        return manifest

    @cached_property
    def is_sealed(self) -> bool:
        """Whether the documents of this run carry seals; those of earlier versions do not."""
        return has_seal(self._text("manifest.json").encode())

    @cached_property
    def plan(self) -> dict[str, Any]:
        return self._json("plan.json")

    @property
    def planned_key(self) -> str | None:
        """The run key of the plan: that of the manifest, unless planning was killed between the two."""
        with contextlib.suppress(RunDirectoryError):
            key = self.plan.get("run_key")
            return None if key is None else str(key)
        return None

    @cached_property
    def graph(self) -> Graph:
        return Graph(**self.manifest["graph"])

    @cached_property
    def item_keys(self) -> dict[Item, str]:
        """The key of every item of the plan, in the order of execution."""
        try:
            return {Item.from_dict(entry): str(entry["key"]) for entry in self.plan["items"]}
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise RunDirectoryError(
                f"{self.path / 'plan.json'}: is no list of items ({error}); run the config again to rewrite it"
            ) from None

    @property
    def items(self) -> tuple[Item, ...]:
        """All items that count, in the order of execution: those of the plan, of shards within the limits."""
        return tuple(item for item in self.item_keys if self.counts(item))

    @cached_property
    def limits(self) -> dict[str, int]:
        """How many shards of a task count, of the tasks that have a limit (`until`). RunDirectoryError."""
        return {task: one["shards"] for task, one in read_limits(self.path)[1].items()}

    def counts(self, item: Item) -> bool:
        """Whether an item is within the limits."""
        return item.shard < self.limits.get(item.task, item.shard + 1)

    @cached_property
    def prompt_scores(self) -> dict[str, str]:
        """The methods whose items are done only with every prompt's scores beside them, by id, and the type of
        number that they are kept in. It is a wish of the last plan, no part of any key."""
        wanted = self.plan.get("prompt_scores", {})
        if not isinstance(wanted, dict) or any(kind not in tuple(SIZES) for kind in wanted.values()):
            raise RunDirectoryError(
                f"{self.path / 'plan.json'}: prompt_scores names no types; run the config again to rewrite it"
            )
        return wanted

    @property
    def run_yaml(self) -> str:
        """The text of run.yaml."""
        return self._text("run.yaml")

    def prompts(self, task: str, shard: int | None = None, *, every: bool = False) -> list[TokenPair]:
        """The prompts of a shard, or of all of a task's that count, or `every` one that may come to count; needs no
        tokenizer."""
        tokens = []
        for table in [self._prompts] if self._prompts is not None else self._parts(task, shard):
            chosen = pc.equal(table["task"], task)
            if shard is not None:
                chosen = pc.and_(chosen, pc.equal(table["shard"], shard))
            elif task in self.limits and not every:
                chosen = pc.and_(chosen, pc.less(table["shard"], self.limits[task]))
            tokens += prompts_of(table.filter(chosen))
        if not tokens:
            raise RunDirectoryError(
                f"{self.path}: has no prompts for task {task}, shard {shard}; plan the run again"
            )
        return tokens

    @cached_property
    def _prompts(self) -> pa.Table | None:
        """The table of prompts, None where it is kept in parts because it is large."""
        with self._readable() as path:
            if parts_of(read_footer(path)) is not None:
                return None
            return next(read_prompts(path))

    def _parts(self, task: str, shard: int | None) -> list[pa.Table]:
        with self._readable() as path:
            return list(read_prompts(path, task, shard))

    @contextlib.contextmanager
    def _readable(self) -> Iterator[Place]:
        path = self.path / "prompts.parquet"
        try:
            yield path
        except StorageError:
            raise
        except (DamagedFileError, OSError) as error:
            raise RunDirectoryError(
                f"{path}: cannot be read ({error}); run the config again to rewrite it"
            ) from None

    def _json(self, name: str) -> dict[str, Any]:
        with contextlib.suppress(ValueError):
            value = without_seal(parse_json(self._text(name)))
            if isinstance(value, dict):
                return value
        raise _TornError(f"{self.path / name}: is no JSON object; run the config again to rewrite it")

    def _text(self, name: str) -> str:
        try:
            path = self.path / name
            if (size := path.stat().st_size) > MOST_BYTES:
                raise RunDirectoryError(
                    f"{path}: {size:,} bytes are over {MOST_BYTES:,}; it is no file of a run"
                )
            return path.read_bytes().decode("utf-8")
        except StorageError:
            raise
        except UnicodeDecodeError:
            raise _TornError(f"{path}: is no text; run the config again to rewrite it") from None
        except OSError:
            raise _TornError(
                f"{self.path}: has no readable {name}, so it is no run directory; check the path"
            ) from None
