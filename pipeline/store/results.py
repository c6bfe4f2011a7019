"""A run as its readers see it: status, scores as frames, circuits. Loads without torch and without ray.

Knows what files hold. Does not know how they came about, nor how to write any.
"""

from collections import Counter
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import PurePosixPath
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa

from pipeline.core.circuit import Circuit
from pipeline.core.documents import parse_json, parse_mapping, suggest
from pipeline.core.errors import CircuitsError, RunDirectoryError
from pipeline.core.graph import Graph
from pipeline.core.items import Item
from pipeline.core.prompts import TokenPair
from pipeline.core.scores import EdgeScores
from pipeline.store import prompt_scores, schema, sweeps
from pipeline.store.aggregate import aggregate_path
from pipeline.store.faithfulness import FILE, SCHEMA
from pipeline.store.files import DamagedFileError, Footer, read_parquet
from pipeline.store.lock import is_free, read_owner, this_process
from pipeline.store.place import Place, relative
from pipeline.store.run_dir import SCHEMAS, RunDirectory
from pipeline.store.scores import dictionary, floats, read_scores

T = TypeVar("T")

Sources = list[tuple[PurePosixPath | Item, dict[str, str]]]  # files of a run, and labels of their rows

LEVELS = ("aggregate", "shard", "prompt")

_OF_THE_FILE = ("columns", "values", "schema_version")  # facts by which damage is found

_NULLABLE = {pa.bool_(): pd.BooleanDtype()}


def open_run(path: str | Place) -> "Run":
    """The run in a directory; RunDirectoryError when there is none."""
    return Run(RunDirectory.open(path))


def load_scores(
    path: str | Place, level: str = "aggregate", task: str | None = None, method: str | None = None
) -> pd.DataFrame:
    """The edge scores of a run: merged, a row per task, method and edge; or shard by shard; or, where they were
    kept, prompt by prompt: `Run.prompt_scores`.

    Choose one task or method by id. A method that scores nodes is read when it is named.
    """
    return open_run(path).scores(method=method, task=task, level=level)


def edge_scores(run: "Run", task: str, method: str) -> EdgeScores:
    """The merged scores of one task and method, as a method returns them."""
    return run.edge_scores(method=method, task=task)


class Run:
    """A run directory, read when asked."""

    def __init__(self, directory: RunDirectory) -> None:
        self.directory = directory

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    # --- facts -------------------------------------------------------------------------------------------

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
        done = self.directory.done(rename=False)
        failed = Counter(record["name"] for record in self.failures())
        rows: dict[tuple[str, str], dict[str, Any]] = {}
        for item in self.directory.items:
            key = (item.task, item.method or item.kind)
            row = rows.setdefault(
                key, {"task": key[0], "method": key[1], "items": 0, "done": 0, "failed": 0, "missing": []}
            )
            row["items"] += 1
            if item in done:
                row["done"] += 1
            else:
                row["failed"] += item.name in failed
                row["missing"].append(item.name)
        return {
            "run": self.path.name,
            "path": str(self.path),
            "run_key": self.manifest["run_key"],
            "items": len(self.directory.items),
            "done": len(done),
            "failed": sum(row["failed"] for row in rows.values()),
            "missing": len(self.directory.items) - len(done),
            "complete": self.is_complete and len(done) == len(self.directory.items),
            "running": self._running(),
            "prompt_scores": self._prompt_score_files(),
            "rows": list(rows.values()),
        }

    def _prompt_score_files(self) -> dict[str, Any]:
        """Whose scores are to be kept prompt by prompt, and the files and bytes that are there."""
        found = [self.path / prompt_scores.path_of(item) for item in self.directory.items if item.method]
        sizes = [path.stat().st_size for path in found if path.exists()]
        return {"methods": list(self.directory.prompt_scores), "files": len(sizes), "bytes": sum(sizes)}

    def _running(self) -> str | None:
        """`process 123 on host` when a live process owns the directory."""
        held = read_owner(self.path)
        if held is None or is_free(*held, this_process()):
            return None
        return f"process {held[0].pid} on {held[0].host}"

    def failures(self) -> list[dict[str, Any]]:
        """Every failure record, by item and attempt."""
        return self.directory.failures()

    def footers(self) -> pd.DataFrame:
        """A row per finished item with the facts of its footer: attempt, device, seconds, passes ..."""
        rows = []
        for item in self.directory.items:
            try:
                footer = self.directory.check(item)
            except (FileNotFoundError, DamagedFileError):
                continue
            facts = _numbers({key: footer[key] for key in footer if key not in _OF_THE_FILE})
            facts["parameters"] = facts.pop("method", None)
            rows.append({"item": item.name, **item.to_dict(), **facts, "task": item.task})
        return pd.DataFrame(rows)

    def prompts(self, task: str) -> list[TokenPair]:
        """The prompts of a task, in order."""
        return self.directory.prompts(_one(task, self.tasks, "task"))

    def baseline(self, task: str) -> pd.DataFrame:
        """A row per prompt and metric: prompt_id metric clean corrupted."""
        _one(task, self.tasks, "task")
        items = [i for i in self.directory.items if i.kind == "baseline" and i.task == task]
        sources: Sources = [(item, {}) for item in items]
        return self._frame(sources, f"baseline of task {task}", schema.PROMPT_METRICS)

    # --- scores ------------------------------------------------------------------------------------------

    def level(self, method: str) -> str:
        """What a method scores: "edge" or "node"."""
        level: str = self.manifest["methods"][_one(method, self.methods, "method")]["level"]
        return level

    def scores(
        self, method: str | None = None, task: str | None = None, level: str = "aggregate"
    ) -> pd.DataFrame:
        """Scores with task and method columns: merged, or with `level="shard"` as the shards hold them. With
        `level="prompt"` the frame of `prompt_scores`.

        Without `method`, all methods that score edges; node methods have other rows and are named one by one.
        Raises RunDirectoryError when there is nothing (yet), CircuitsError for an unknown task or method.
        """
        if level not in LEVELS:
            raise CircuitsError(f"level={level!r} is unknown{suggest(level, LEVELS)}")
        if level == "prompt":
            return self.prompt_scores(method, task)
        tasks = self.tasks if task is None else (_one(task, self.tasks, "task"),)
        kind = "scores" if method is None or self.level(method) == "edge" else "node_scores"
        methods = [m for m in self.methods if m == method or (method is None and self.level(m) == "edge")]
        sources: Sources = []
        for task_id in tasks:
            for method_id in methods:
                labels = {"task": task_id, "method": method_id}
                if level == "aggregate":
                    sources.append((aggregate_path(kind, task_id, method_id), labels))
                else:
                    wanted = (kind, task_id, method_id)
                    items = [i for i in self.directory.items if (i.kind, i.task, i.method) == wanted]
                    sources += [(item, labels) for item in items]
        if level == "aggregate":
            columns = schema.AGGREGATE if kind == "scores" else schema.NODE_AGGREGATE
            return self._frame(sources, "merged scores", columns)
        return self._frame(sources, "scores", SCHEMAS[kind])

    def prompt_scores(self, method: str | None = None, task: str | None = None) -> pd.DataFrame:
        """Every prompt's scores of one method and task: a row per `prompt_id`, a column per edge, by name; float32
        with NaN for what was not measured. Holds the prompts whose shards are there.

        Raises RunDirectoryError when none were kept, CircuitsError for a method that has none.
        """
        method_id, task_id = self._choose(method, task)
        if not self.manifest["methods"][method_id].get("scores_prompts", True):
            raise CircuitsError(f"{method_id} has no scores of single prompts; choose another method")
        ids, rows = [], []
        for item in self.directory.items:
            path = self.path / prompt_scores.path_of(item)
            if (item.task, item.method) == (task_id, method_id) and path.exists():
                one = self._checked(partial(self._one_shard, item), path)
                ids.append(one[0])
                rows.append(one[1])
        if not rows:
            raise RunDirectoryError(
                f"{self.path}: keeps no scores by prompt of {method_id} on {task_id}; compute them with "
                f"`circuits resume {self.path} --set store.prompt_scores=true`"
            )
        index = pd.Index(np.concatenate(ids), name="prompt_id")
        return pd.DataFrame(
            np.concatenate(rows), index=index, columns=list(self.graph.edge_names), copy=False
        )

    def _one_shard(self, item: Item, path: Place) -> tuple[np.ndarray, np.ndarray]:
        """Prompt ids and scores of a shard, which must be as many and as wide as they are claimed to be."""
        rows = prompt_scores.check(path, self.graph.n_edges, "float16")["rows"]
        if rows != str(len(self.directory.prompts(item.task, item.shard))):
            raise DamagedFileError(f"it has {rows} rows, which is not the number of the shard's prompts")
        return prompt_scores.read(path)

    def edge_scores(self, method: str | None = None, task: str | None = None) -> EdgeScores:
        """The merged scores of one method and task, which may be left out where there is one."""
        method_id, task_id = self._choose(method, task)
        table = self._read(self.path / aggregate_path("scores", task_id, method_id), schema.AGGREGATE)
        spans = table["span"].unique().to_pylist()
        if len(spans) > 1:
            raise CircuitsError(f"{method_id} scores spans of positions; read them with scores(method=...)")
        if not np.array_equal(table["edge_id"].to_numpy(), np.arange(self.graph.n_edges)):
            raise RunDirectoryError(
                f"{self.path}: the merged scores of {method_id} on {task_id} are not a row per edge; "
                f"`circuits resume {self.path}` merges them anew"
            )
        n = table["n_prompts"].to_numpy().astype(np.int64)
        kept = None
        if table["kept_fraction"].null_count < len(table):
            kept = np.nan_to_num(floats(table["kept_fraction"])) >= 0.5  # a tie keeps
        population = np.sqrt(np.maximum(n - 1, 0) / np.maximum(n, 1))  # the file's std is the sample's
        std = np.where(n == 1, 0.0, floats(table["score_std"]) * population)
        return EdgeScores(self.graph, floats(table["score"]), std, n, kept=kept, span=spans[0])

    def circuit(
        self,
        method: str | None = None,
        task: str | None = None,
        *,
        top: int | None = None,
        threshold: float | None = None,
        rank: str = "absolute",
    ) -> Circuit:
        """The `top` edges, those above `threshold`, or what a method that decides has kept."""
        return Circuit.from_scores(self.edge_scores(method, task), top=top, threshold=threshold, rank=rank)

    def faithfulness(self) -> pd.DataFrame:
        """What was evaluated: a row per task, method and size of the circuit."""
        path = self.path / FILE
        frame = self._read(path, SCHEMA).to_pandas()
        sizes = frame[["n_edges", "n_edges_pruned"]]
        known = frame["task"].isin(self.tasks) & frame["method"].isin(self.methods)
        if not (known.all() and sizes.ge(0).all(axis=None) and sizes.le(self.graph.n_edges).all(axis=None)):
            raise RunDirectoryError(
                f"{path}: holds circuits of another run; `circuits resume {self.path}` evaluates anew"
            )
        return frame

    # --- sweeps ------------------------------------------------------------------------------------------

    def pareto(self) -> pd.DataFrame:
        """The rows of `faithfulness()` with the method's family, threshold and ablation, sorted for a plot of edges
        against the metric; `best` marks the Pareto front. Methods of a family differ in their threshold alone.
        """
        return sweeps.pareto(self.faithfulness(), self.manifest["methods"])

    def kept_circuits(self, task: str) -> dict[str, Circuit]:
        """What the methods with a threshold have kept, by method; those without merged scores are left out."""
        _one(task, self.tasks, "task")
        circuits = {}
        for method in sweeps.thresholds(self.manifest["methods"]):
            if (self.path / aggregate_path("scores", task, method)).exists():
                circuits[method] = self.circuit(method, task)
        return circuits

    def overlap(self) -> pd.DataFrame:
        """A row per task and pair of kept circuits: task method other n_edges other_edges common either jaccard."""
        rows = []
        for task in self.tasks:
            masks = {method: circuit.mask for method, circuit in self.kept_circuits(task).items()}
            rows += [{"task": task, **row} for row in sweeps.overlap(masks)]
        names = ["task", "method", "other", "n_edges", "other_edges", "common", "either", "jaccard"]
        return pd.DataFrame(rows, columns=names)

    # --- reading -----------------------------------------------------------------------------------------

    def _choose(self, method: str | None, task: str | None) -> tuple[str, str]:
        edge_methods = tuple(m for m in self.methods if self.level(m) == "edge")
        if method is not None and self.level(method) == "node":
            raise CircuitsError(f"{method} scores nodes, not edges; read them with scores(method={method!r})")
        if method is None:
            if len(edge_methods) != 1:
                raise CircuitsError(f"name a method; this run has: {', '.join(edge_methods)}")
            method = edge_methods[0]
        if task is None:
            if len(self.tasks) != 1:
                raise CircuitsError(f"name a task; this run has: {', '.join(self.tasks)}")
            task = self.tasks[0]
        return method, _one(task, self.tasks, "task")

    def _frame(self, sources: Sources, what: str, columns: pa.Schema) -> pd.DataFrame:
        """The rows of all files that are there, each labelled; RunDirectoryError when there is none."""
        tables = []
        for source, labels in sources:
            path = self.directory.file_of(source) if isinstance(source, Item) else self.path / source
            if path.exists():
                table = self._read(source if isinstance(source, Item) else path, columns)
                for position, (name, label) in enumerate(labels.items()):
                    column = dictionary(np.zeros(len(table), dtype=np.int32), [label])
                    table = table.add_column(position, name, column)
                tables.append(table)
        if not tables:
            done, total = len(self.directory.done(rename=False)), len(self.directory.items)
            raise RunDirectoryError(
                f"{self.path}: has no {what} yet ({done} of {total} items done); compute the rest with "
                f"`circuits resume {self.path}`"
            )
        frame = pa.concat_tables(tables).unify_dictionaries().to_pandas(types_mapper=_NULLABLE.get)
        return frame.astype({"rank": "Int32"}) if "rank" in frame else frame

    def _read(self, path: Place | Item, columns: pa.Schema) -> pa.Table:
        if isinstance(path, Item):
            return self._checked(lambda _: self.directory.table(path), self.directory.file_of(path))
        of_scores = {"edge_id", "node_id"} & set(columns.names)
        return self._checked(
            lambda path: read_scores(path, columns, self.graph) if of_scores else read_parquet(path, columns),
            path,
        )

    def _checked(self, read: Callable[[Place], T], path: Place) -> T:
        """What `read` returns; RunDirectoryError when the file is missing or damaged."""
        try:
            return read(path)
        except FileNotFoundError:
            name = relative(path, self.path)
            raise RunDirectoryError(
                f"{self.path}: has no {name} yet; `circuits status {self.path}` says what is missing and "
                f"`circuits resume {self.path}` computes it"
            ) from None
        except DamagedFileError as error:
            raise RunDirectoryError(
                f"{path}: damaged ({error}); `circuits resume {self.path}` computes it anew"
            ) from None


def _one(name: str, known: tuple[str, ...], what: str) -> str:
    if name not in known:
        raise CircuitsError(f"this run has no {what} {name!r}{suggest(name, known)}")
    return name


def _numbers(footer: Footer) -> dict[str, Any]:
    """Facts with numbers as numbers; the rest stays text."""
    facts: dict[str, Any] = {}
    for key, value in footer.items():
        try:
            number = parse_json(value)
        except ValueError:
            number = None
        is_number = isinstance(number, int | float) and not isinstance(number, bool)
        facts[key] = number if is_number and not key.endswith(("key", "revision", "fingerprint")) else value
    return facts
