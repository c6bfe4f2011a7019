"""What a run is: its config, graph, tasks and methods, how far it is, and the prompts that it measures.

Knows a run directory and names. Does not know scores (`pipeline.store.run.opened`). Everything is read when asked.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool

from pipeline.core.documents import parse_mapping, suggest
from pipeline.core.errors import CircuitsError
from pipeline.core.graph import Graph
from pipeline.core.prompts import TokenPair
from pipeline.core.results import EDGE_SCORES, ResultType
from pipeline.core.showing import page
from pipeline.store.place.where import Place
from pipeline.store.run.aggregate import merged_path
from pipeline.store.run.dataframes import frame_of
from pipeline.store.run.run_dir import RunDirectory
from pipeline.store.run.status import footers_of, status_of

if TYPE_CHECKING:
    from pandas import DataFrame


class RunFacts:
    """A run directory, as far as it says what is asked for and what is there."""

    def __init__(self, directory: RunDirectory) -> None:
        self.directory = directory

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    def _repr_html_(self) -> str:
        import pandas as pd

        what = f"{self.path}: {self.manifest['model']['name']}, {self.graph.describe()}"
        frame = pd.DataFrame(self.status()["rows"])
        return page(what, frame[["task", "method", "items", "done", "failed"]])

    # --- the run -----------------------------------------------------------------------------------------------

    @property
    def path(self) -> Place:
        return self.directory.path

    @property
    def manifest(self) -> dict[str, Any]:
        """What the run is, resolved: name, run_key, model, methods, metrics, identity."""
        return self.directory.manifest

    @cached_property
    def config(self) -> dict[str, Any]:
        """run.yaml as plain data."""
        return parse_mapping(self.directory.run_yaml, str(self.path / "run.yaml"))

    @property
    def graph(self) -> Graph:
        return self.directory.graph

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(self.manifest["identity"]["tasks"])

    @property
    def found_on(self) -> tuple[str, ...]:
        """The tasks that methods see: all but those held out, which only judge."""
        asked = self.manifest["identity"]["tasks"]
        return tuple(task for task in self.tasks if asked[task].get("held_out_of") is None)

    @property
    def methods(self) -> tuple[str, ...]:
        return tuple(self.manifest["methods"])

    @property
    def is_complete(self) -> bool:
        """Whether nothing was missing when the run ended, in items or in evaluation."""
        return self.directory.is_marked_complete

    def status(self) -> dict[str, Any]:
        """What is done, from the files alone: counts, a row per task and method, who is at work.

        Reads footers and renames nothing; a damaged file counts as missing.
        """
        return status_of(self.directory)

    def failures(self) -> list[dict[str, Any]]:
        """Every failure record, by item and attempt."""
        return self.directory.failures()

    def footers(self) -> "DataFrame":
        """A row per finished item with the facts of its footer: attempt, device, seconds, passes ..."""
        return footers_of(self.directory)

    # --- prompts -----------------------------------------------------------------------------------------------

    def prompts(self, task: str) -> list[TokenPair]:
        """The prompts of a task, in order."""
        return self.directory.prompts(one_of(task, self.tasks, "task"))

    def filtered(self, task: str) -> "DataFrame":
        """A row per prompt of a task with a filter: prompt_id kept reason said (the token that it says first)."""
        return self._by_prompt("filtered", task, "filter")

    def baseline(self, task: str) -> "DataFrame":
        """A row per prompt and metric: prompt_id metric clean corrupted."""
        return self._by_prompt("baseline", task, "baseline")

    def _by_prompt(self, kind: str, task: str, what: str) -> "DataFrame":
        one_of(task, self.tasks, "task")
        items = [item for item in self.directory.items if (item.kind, item.task) == (kind, task)]
        return frame_of(self.directory, [(item, {}) for item in items], f"{what} of task {task}")

    def truth(self, task: str) -> Bool[np.ndarray, " edge"] | None:
        """The circuit that is known of a task in this model, where one is: which edges belong to it."""
        return self._known(task, self.graph.edge_names)

    def true_nodes(self, task: str) -> Bool[np.ndarray, " sender"] | None:
        """The senders of the circuit that is known of a task in this model, where its nodes are all that is known."""
        return self._known(task, [node.name for node in self.graph.senders])

    def _known(self, task: str, names: Sequence[str]) -> Bool[np.ndarray, " name"] | None:
        """Which of these names the circuit of a task has; None where it has none of them."""
        known = set(self.manifest.get("truth", {}).get(one_of(task, self.tasks, "task"), ()))
        mask = np.asarray([name in known for name in names], dtype=bool)
        return mask if mask.any() else None

    # --- methods -----------------------------------------------------------------------------------------------

    def type_of(self, method: str) -> ResultType:
        """What a method measures: axes, values, and how shards were merged."""
        return self.directory.types[one_of(method, self.methods, "method")]

    def level(self, method: str) -> str:
        """What a method scores: "edge", "node", or whatever else the rows of its results are of."""
        return self.type_of(method).of

    def merged_path(self, method: str, task: str) -> Place:
        """Where the merged results of a method and task lie."""
        return self.path / merged_path(self.type_of(method), task, method)

    def choose(self, method: str | None, task: str | None) -> tuple[str, str]:
        """A method that scores edges, and a task; each may be left out where there is one. CircuitsError."""
        if method is not None and self.type_of(method) != EDGE_SCORES:
            raise CircuitsError(
                f"{method} scores {self.level(method)}s, not edges; read them with scores(method={method!r})"
            )
        if method is None:
            edge_methods = tuple(one for one in self.methods if self.type_of(one) == EDGE_SCORES)
            if not edge_methods:
                raise self._nothing_of_edges()
            method = _only(edge_methods, "method")
        return method, one_of(_only(self.found_on, "task") if task is None else task, self.tasks, "task")

    def _nothing_of_edges(self) -> CircuitsError:
        has = ", ".join(f"{method} ({self.level(method)}s)" for method in self.methods)
        return CircuitsError(
            f"no method of this run scores edges: it has {has}; read one with scores(method=...)"
        )


def _only(known: tuple[str, ...], what: str) -> str:
    """The one that there is. CircuitsError that says how one of several is named, on the command line and in Python."""
    if len(known) != 1:
        raise CircuitsError(
            f"name a {what}, as --{what} {known[0]} or {what}={known[0]!r}; this run has: {', '.join(known)}"
        )
    return known[0]


def one_of(name: str, known: tuple[str, ...], what: str) -> str:
    """The name. CircuitsError where none of these is called so."""
    if name not in known:
        raise CircuitsError(f"this run has no {what} {name!r}{suggest(name, known)}")
    return name
