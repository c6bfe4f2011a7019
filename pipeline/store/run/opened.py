"""What a run has found, as its readers see it: scores as frames, circuits. Loads without torch and without ray.

Knows what files hold. Does not know how they came about, nor how to write any.
"""

import warnings
from typing import TYPE_CHECKING

import numpy as np

from pipeline.core.circuit import Circuit
from pipeline.core.documents import parse_json, suggest
from pipeline.core.errors import CircuitsError, RunDirectoryError
from pipeline.core.prompt_rows import PromptRows
from pipeline.core.results import EDGE_SCORES
from pipeline.core.scores import EdgeScores
from pipeline.core.selection import RULES
from pipeline.store.place.where import Place
from pipeline.store.run import evaluations, schema, sweeps
from pipeline.store.run.circuits import FILE, SCHEMA, without_rank
from pipeline.store.run.dataframes import (
    Sources,
    frame_of,
    prompt_rows,
    prompt_score_frame,
    read_merged,
    read_table,
)
from pipeline.store.run.files import DamagedFileError, read_footer
from pipeline.store.run.rows import floats
from pipeline.store.run.run_dir import RunDirectory
from pipeline.store.run.run_facts import RunFacts, one_of

if TYPE_CHECKING:
    from pandas import DataFrame


LEVELS = ("aggregate", "shard", "prompt")


class PartialScoresWarning(UserWarning):
    """Merged scores do not hold all of their prompts yet."""


def open_run(path: str | Place) -> "Run":
    """The run in a directory; RunDirectoryError when there is none."""
    return Run(RunDirectory.open(path))


def load_scores(
    path: str | Place, level: str = "aggregate", task: str | None = None, method: str | None = None
) -> "DataFrame":
    """The edge scores of a run: merged, a row per task, method and edge; or shard by shard; or, where they were
    kept, prompt by prompt: `Run.prompt_scores`.

    Choose one task or method by id. A method that scores nodes is read when it is named. Merged scores from which items
    are missing come with a PartialScoresWarning, and name them in `attrs["missing"]`.
    """
    run = open_run(path)
    frame = run.scores(method=method, task=task, level=level)
    if missing := frame.attrs.get("missing"):
        warnings.warn(
            f"{run.path}: partial scores, {len(missing)} items are missing from them; `circuits resume {run.path}` "
            "computes the rest",
            PartialScoresWarning,
            stacklevel=2,
        )
    return frame


def edge_scores(run: "Run", task: str, method: str) -> EdgeScores:
    """The merged scores of one task and method, as a method returns them."""
    return run.edge_scores(method=method, task=task)


class Run(RunFacts):
    """A run directory, read when asked."""

    def scores(
        self, method: str | None = None, task: str | None = None, level: str = "aggregate"
    ) -> "DataFrame":
        """Scores with task and method columns: merged, or with `level="shard"` as the shards hold them. With
        `level="prompt"` the frame of `prompt_scores`.

        Without `method`, all methods that score edges; others have other rows and are named one by one.
        Raises RunDirectoryError when there is nothing (yet), CircuitsError for an unknown task or method.
        """
        if level not in LEVELS:
            raise CircuitsError(f"level={level!r} is unknown{suggest(level, LEVELS)}")
        if level == "prompt":
            return self.prompt_scores(method, task)
        tasks = self.tasks if task is None else (one_of(task, self.tasks, "task"),)
        wanted = EDGE_SCORES if method is None else self.type_of(method)
        methods = [m for m in self.methods if m == method or (method is None and self.type_of(m) == wanted)]
        if not methods:
            raise self._nothing_of_edges()
        sources: Sources = []
        for task_id in tasks:
            for method_id in methods:
                labels = {"task": task_id, "method": method_id}
                if level == "aggregate":
                    sources.append(((self.type_of(method_id), task_id, method_id), labels))
                else:
                    of = (task_id, method_id)
                    sources += [(i, labels) for i in self.directory.items if (i.task, i.method) == of]
        if level == "aggregate":
            frame = frame_of(self.directory, sources, "merged scores")
            if missing := [name for t in tasks for m in methods for name in self.missing_from(m, t)]:
                frame.attrs["missing"] = missing
            return frame
        return frame_of(self.directory, sources, "scores")

    def missing_from(self, method: str, task: str) -> tuple[str, ...]:
        """The items that the merged scores of a method and task lack, by name; none where nothing is merged."""
        try:
            names = parse_json(read_footer(self.merged_path(method, task)).get("missing", "[]"))
        except (FileNotFoundError, DamagedFileError, ValueError):
            return ()
        return tuple(map(str, names)) if isinstance(names, list) else ()

    def prompt_scores(self, method: str | None = None, task: str | None = None) -> "DataFrame":
        """Every prompt's scores of one method and task: a row per `prompt_id`, a column per edge, by name; float32
        with NaN for what was not measured. Holds the prompts whose shards are there.

        Raises RunDirectoryError when none were kept, CircuitsError for a method that has none.
        """
        method_id, task_id = self.choose(method, task)
        self._require_prompt_scores(method_id)
        return prompt_score_frame(self.directory, method_id, task_id)

    def prompt_rows(self, method: str, task: str) -> PromptRows:
        """What `prompt_scores` returns, by edge id and shard after shard: for more prompts than memory holds."""
        self._require_prompt_scores(method)
        return prompt_rows(self.directory, method, task)

    def rows_of_prompts(self, method: str, task: str) -> PromptRows | None:
        """Every prompt's scores; None where the method has none or not those of all prompts that are measured are
        kept."""
        try:
            rows = self.prompt_rows(method, task)
        except CircuitsError:
            return None
        return rows if len(rows) == len(self.directory.used_prompts(task)) else None

    def _require_prompt_scores(self, method: str) -> None:
        if not self.manifest["methods"][method].get("scores_prompts", True):
            raise CircuitsError(f"{method} has no scores of single prompts; choose another method")

    def ids_of_prompts(self, task: str) -> list[int]:
        """The prompts of a task that are measured, shard by shard: as the rows of `rows_of_prompts` follow."""
        shards = sorted({i.shard for i in self.directory.items if i.kind == "baseline" and i.task == task})
        return [
            prompt.prompt_id
            for shard in shards
            for prompt in sorted(self.directory.used_prompts(task, shard), key=lambda one: one.prompt_id)
        ]

    def clusters(self, method: str | None = None, task: str | None = None) -> "DataFrame":
        """A row per prompt that the evaluation `clusters` has looked at: prompt_id cluster (none: like no other)."""
        import pandas as pd

        method_id, task_id = self.choose(method, task)
        frame = self.evaluations()
        of = (frame["method"] == method_id) & (frame["task"] == task_id) & (frame["quantity"] == "cluster")
        rows = frame[of & (frame["evaluation"] == "clusters")]
        ids = rows["circuit"].str.removeprefix("prompt-").astype(int)
        found = pd.DataFrame({"prompt_id": ids, "cluster": rows["value"].astype("Int64")})
        return found.sort_values("prompt_id", ignore_index=True)

    def edge_scores(self, method: str | None = None, task: str | None = None) -> EdgeScores:
        """The merged scores of one method and task, which may be left out where there is one."""
        method_id, task_id = self.choose(method, task)
        type_ = self.type_of(method_id)
        table = read_merged(self.directory, self.merged_path(method_id, task_id), type_)
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
        if table["kept"].null_count < len(table):
            kept = np.asarray(table["kept"].fill_null(False))
        population = np.sqrt(np.maximum(n - 1, 0) / np.maximum(n, 1))  # the file's std is the sample's
        std = np.where(n == 1, 0.0, floats(table["score_std"]) * population)
        error = floats(table[schema.error_of(type_)]) if type_.bounded else None
        return EdgeScores(self.graph, floats(table["score"]), std, n, kept=kept, span=spans[0], error=error)

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

    @property
    def ranks(self) -> tuple[str, ...]:
        """The rules by which circuits of its sizes are selected. RunDirectoryError where run.yaml names none."""
        said = self.config.get("evaluate", {}).get("rank", "absolute")
        ranks = tuple(said) if isinstance(said, list) else (said,)
        if not ranks or not all(isinstance(rank, str) and rank in RULES for rank in ranks):
            raise RunDirectoryError(f"{self.path / 'run.yaml'}: evaluate.rank names no rules: {said!r}")
        return ranks

    def faithfulness(self) -> "DataFrame":
        """What was evaluated: a row per task, method and size of the circuit, and where several rules are compared per
        rule, which is in the column `rank`."""
        path = self.path / FILE
        frame = without_rank(read_table(self.directory, path, SCHEMA)).to_pandas()
        sizes = frame[["n_edges", "n_edges_pruned"]]
        known = frame["task"].isin(self.tasks) & frame["method"].isin(self.methods)
        if not (known.all() and sizes.ge(0).all(axis=None) and sizes.le(self.graph.n_edges).all(axis=None)):
            raise RunDirectoryError(
                f"{path}: holds circuits of another run; `circuits resume {self.path}` evaluates anew"
            )
        return frame

    def evaluations(self) -> "DataFrame":
        """What else was found: a row per task, method, evaluation, quantity, and circuit where it is of one; `rank` is
        the rule that the number is of, where several are compared."""
        table = read_table(self.directory, self.path / evaluations.FILE, evaluations.FOUND)
        frame = without_rank(table).to_pandas()
        if not (frame["task"].isin(self.tasks) & frame["method"].isin(self.methods)).all():
            raise RunDirectoryError(
                f"{self.path / evaluations.FILE}: is of another run; `circuits resume {self.path}` evaluates anew"
            )
        return frame

    # --- sweeps ------------------------------------------------------------------------------------------

    def pareto(self) -> "DataFrame":
        """The rows of `faithfulness()` with the method's family, threshold and ablation, sorted for a plot of edges
        against the metric; `best` marks the Pareto front. Methods of a family differ in their threshold alone.
        """
        return sweeps.pareto(self.faithfulness(), self.manifest["methods"])

    def kept_circuits(self, task: str) -> dict[str, Circuit]:
        """What the methods with a threshold have kept, by method; those without merged scores are left out."""
        one_of(task, self.tasks, "task")
        circuits = {}
        for method in sweeps.thresholds(self.manifest["methods"]):
            if self.merged_path(method, task).exists():
                circuits[method] = self.circuit(method, task)
        return circuits

    def overlap(self) -> "DataFrame":
        """A row per task and pair of kept circuits: task method other n_edges other_edges common either jaccard."""
        import pandas as pd

        rows = []
        for task in self.tasks:
            masks = {method: circuit.mask for method, circuit in self.kept_circuits(task).items()}
            rows += [{"task": task, **row} for row in sweeps.overlap(masks)]
        names = ["task", "method", "other", "n_edges", "other_edges", "common", "either", "jaccard"]
        return pd.DataFrame(rows, columns=names)
