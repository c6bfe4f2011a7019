"""What a worker does with an item: prompts from the run directory, batches, scores, one committed file.

Knows the order of these steps, in plain calls. Does not know Ray, pools or retries. An exception leaves
no file.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from pipeline.ablations import collect_statistics
from pipeline.config import RunConfig
from pipeline.core.circuit import Circuit
from pipeline.core.errors import CircuitsError, ModelError, ScoreError
from pipeline.core.items import Item
from pipeline.core.prompts import TokenPair, bucket_by_length, some
from pipeline.core.results import Result, Rows, rows_of
from pipeline.core.scores import EdgeScores, Moments, NodeScores
from pipeline.evaluation import Recordings, Subject
from pipeline.methods.collective import Collective
from pipeline.methods.work import Work
from pipeline.metrics import get_metric
from pipeline.store.run.evaluations import Label, write_values
from pipeline.store.run.item_files import Payload
from pipeline.store.run.run_dir import RunDirectory
from pipeline.store.run.tables import metrics_table
from pipeline.workers.circuit_values import (
    CircuitJob,
    RuleFile,
    apart,
    by_rule,
    circuits_of,
    seen_so_far,
    subjects_of,
    together,
    values_of,
)
from pipeline.workers.filtering import filtered
from pipeline.workers.jobs import Opener, process_peak_memory
from pipeline.workers.members import found_by
from pipeline.workers.together import Consult, Enlist, Parts

if TYPE_CHECKING:
    from pipeline.engine.batch import Batch
    from pipeline.engine.patchable import PatchableModel

PACKAGES = ("torch", "transformers", "accelerate", "numpy", "pyarrow")


@dataclass(frozen=True)
class Settings:
    """How a worker computes. None of it is part of the run's identity."""

    run_path: str
    model_name: str  # absolute for a folder: workers may start in another directory
    batch_size: int
    threads: int
    device_map: str | dict[str, int | str]
    max_memory: dict[int | str, int | str] | None = None


@dataclass(frozen=True)
class ItemReport:
    """What an item cost; passes and evaluations are counted in prompts."""

    item: Item
    attempt: int
    seconds: float
    rows: int
    forward_passes: int
    backward_passes: int
    evaluations: int
    peak_memory_bytes: int


class Replica:
    """What one worker has at hand: the run, the model, and the batches of the shard it is at."""

    def __init__(
        self, directory: RunDirectory, config: RunConfig, model: "PatchableModel", batch_size: int
    ) -> None:
        self.directory = directory
        self.config = config
        self.model = model
        self.batch_size = batch_size
        self._batches: tuple[tuple[str, int], list[Batch]] | None = None
        self._recordings = Recordings()  # of these batches
        self._judged: tuple[CircuitJob, list[Subject], dict[RuleFile, dict[Label, Circuit]]] | None = None
        self._together: tuple[tuple[str, int], dict[str, Result]] | None = None
        self._parts = Parts()

    def __call__(self, job: Item | CircuitJob | Enlist | Consult, attempt: int) -> Any:
        if isinstance(job, Enlist | Consult):
            return self._parts(job, self)
        return self._evaluate(job) if isinstance(job, CircuitJob) else execute(job, self, attempt)

    @property
    def device(self) -> str:
        """Where the model computes, as `cpu` or `cuda:0 (NVIDIA H200), cuda:1 (NVIDIA H200)`."""
        import torch

        def name(place: str) -> str:
            return f"{place} ({torch.cuda.get_device_name(place)})" if place.startswith("cuda") else place

        return ", ".join(name(place) for place in self.model.devices)

    def batches(self, task: str, shard: int) -> "list[Batch]":
        """The shard's prompts in batches of similar lengths; kept until another shard is asked for."""
        if self._batches is None or self._batches[0] != (task, shard):
            self._batches = None  # let go of the old ones before making new ones
            self._recordings = Recordings()
            self._batches = ((task, shard), self._collate(task, shard))
        return self._batches[1]

    def work(self, task: str, method: str, batches: "Sequence[Batch]") -> Work:
        """What a method works with on these batches of a task."""
        asked = self.config.method_ids[method]
        return Work(
            self.model,
            batches,
            asked.metric,
            asked.ablation,
            self.directory.statistics(task),
            method in self.directory.prompt_scores,
        )

    def together(self, item: Item) -> Result | None:
        """The item's result from one search for all methods of its sweep, kept until another shard is asked for; None
        where there is no sweep."""
        id_ = str(item.method)
        sweep = self.config.sweep_of(id_)
        if len(sweep) < 2:
            return None
        place = (item.task, item.shard)
        if self._together is None or self._together[0] != place or id_ not in self._together[1]:
            methods = {one: self.config.method_ids[one] for one in sweep}
            first = methods[id_]
            assert isinstance(first, Collective), "nothing else sweeps"
            work = self.work(item.task, id_, self.batches(*place))
            self._together = (place, first.together(work, methods))
        return self._together[1][id_]

    def task_batches(self, task: str) -> "list[Batch]":
        """All prompts of a task in batches. PromptError where its filter keeps none."""
        return [*some(self._collate(task, None), task)]

    def batches_of_every_prompt(self, task: str) -> "list[Batch]":
        """The same with those beyond `until`: a mean over them is known before it is known how many count."""
        return [*some(self._batched(task, self.directory.used_prompts(task, every=True)), task)]

    def batches_to_filter(self, task: str, shard: int) -> "list[Batch]":
        """All prompts of a shard in batches, whatever its task keeps of them."""
        return self._batched(task, self.directory.prompts(task, shard))

    def _evaluate(self, job: CircuitJob) -> None:
        """Commits the job's values, a file per rule; the circuits of its evaluation are kept while jobs differ in the
        shard only."""
        key = replace(job, shard=0)
        if self._judged is None or self._judged[0] != key:
            subjects = subjects_of(self.directory.path, self.config, job.of)
            circuits = {
                file: {
                    (subject.method, job.evaluation, label): circuit
                    for subject in by_rule(subjects, file)
                    for label, circuit in circuits_of(
                        subject,
                        self.config,
                        job.evaluation,
                        seen_so_far(self.directory.path, job.of, job.evaluation, file, subject.method),
                    ).items()
                }
                for file in job.files
            }
            self._judged = (key, subjects, circuits)
        _, subjects, circuits = self._judged
        batches, statistics = self.batches(job.of.task, job.shard), self.directory.statistics(job.of.task)
        ids = sorted(prompt_id for batch in batches for prompt_id in batch.prompt_ids)
        try:
            values = values_of(
                job.name, together(circuits), subjects, self.model, batches, statistics, self._recordings
            )
        except BaseException:
            self._recordings = Recordings()  # it may have been for want of the memory that these take
            raise
        self.directory.require()
        for file, own in apart(circuits, values).items():
            write_values(file.path(self.directory.path, job.item), ids, own, file.key)

    def _collate(self, task: str, shard: int | None) -> "list[Batch]":
        return self._batched(task, self.directory.used_prompts(task, shard))

    def _batched(self, task: str, prompts: Sequence[TokenPair]) -> "list[Batch]":
        attention = self.config.task_ids[task].attention
        buckets = bucket_by_length(prompts, self.batch_size)
        return [self.model.batch(bucket, attention=attention) for bucket in buckets]


def opener(settings: Settings) -> Opener:
    """A picklable function that opens the replica in the worker's own process."""
    return partial(open_replica, settings)


def open_replica(settings: Settings) -> Replica:
    """The replica with the model loaded; the number of threads is forced before anything is computed."""
    import torch

    torch.set_num_threads(settings.threads)
    from pipeline.engine.patchable import load_model

    directory = RunDirectory.open(settings.run_path)
    config = RunConfig.load(directory.path / "run.yaml")
    revision = directory.manifest["model"][
        "revision"
    ]  # what planning saw, even if the branch has moved since
    model = load_model(
        settings.model_name,
        device_map=settings.device_map,
        max_memory=settings.max_memory,
        revision="main" if revision == "local" else revision,
        fingerprint=directory.manifest["model"]["fingerprint"],
        **config.model.reading,
    )
    return Replica(directory, config, model, settings.batch_size)


def replica_with(replica: Replica, run_path: str) -> Replica:
    """The replica of another run with the model of this one. ModelError when it was planned with another."""
    directory = RunDirectory.open(run_path)
    if directory.manifest["model"] != replica.directory.manifest["model"]:
        raise ModelError(f"{run_path}: its model is not the one that is loaded; run the config again")
    return Replica(directory, RunConfig.load(directory.path / "run.yaml"), replica.model, replica.batch_size)


def execute(item: Item, replica: Replica, attempt: int) -> ItemReport:
    """Computes an item and commits its file. ScoreError, and no file, for numbers that are no scores."""
    start = time.perf_counter()
    counters = replica.model.counters
    counters.reset()
    _reset_peak_memory(replica)
    try:
        payload, facts = compute(item, replica)
    except CircuitsError as error:
        raise type(error)(f"{item.name}: {error}") from error
    report = ItemReport(
        item=item,
        attempt=attempt,
        seconds=time.perf_counter() - start,
        rows=_rows(payload),
        forward_passes=counters.forward_passes,
        backward_passes=counters.backward_passes,
        evaluations=counters.evaluations,
        peak_memory_bytes=_peak_memory(replica),
    )
    replica.directory.commit(item, payload, footer(report, replica, facts))
    return report


def rehearse(item: Item, replica: Replica) -> int:
    """The rows that an item's file would have; computes all of them and writes none."""
    payload, _ = compute(item, replica)
    return _rows(payload)


def compute(item: Item, replica: Replica) -> tuple[Payload, dict[str, Any]]:
    """What goes into the item's file, and what its method wants recorded beside it."""
    if item.kind == "statistics":
        return _statistics(item, replica), {}
    if item.kind == "filtered":
        return filtered(replica.model, replica.batches_to_filter(item.task, item.shard)), {}
    batches = replica.batches(item.task, item.shard)
    if item.method is None:
        return _baseline(replica.model, batches, replica.config.metrics), {}
    if not batches and isinstance(method := replica.config.method_ids[item.method], Collective):
        return EdgeScores.from_moments(replica.model.graph, _nothing(replica.model.graph.n_edges)), {}
    if (shared := replica.together(item)) is not None:
        return shared, shared.facts
    method, work = replica.config.method_ids[item.method], replica.work(item.task, item.method, batches)
    if method.combines:
        ids = [prompt for batch in batches for prompt in batch.prompt_ids]
        work = replace(work, others=found_by(replica.directory, item, method.combines, ids))
    found = method.run(work)
    if work.per_prompt and isinstance(found, EdgeScores) and found.per_prompt is not None:
        order = np.argsort([prompt for batch in batches for prompt in batch.prompt_ids])
        found = replace(found, per_prompt=found.per_prompt[order])
    return found, found.facts


def footer(report: ItemReport, replica: Replica, facts: dict[str, Any]) -> dict[str, Any]:
    """How the item was computed; what was computed is known to the run directory."""
    return {
        "attempt": report.attempt,
        "batch_size": replica.batch_size,
        "device": replica.device,
        "seconds": round(report.seconds, 6),
        "peak_memory_bytes": report.peak_memory_bytes,
        "forward_passes": report.forward_passes,
        "backward_passes": report.backward_passes,
        "evaluations": report.evaluations,
        "versions": library_versions(),
        "facts": facts,
    }


@cache
def library_versions() -> dict[str, str]:
    """Versions of whatever the numbers depend on."""
    return {"python": sys.version.split()[0], **{name: version(name) for name in PACKAGES}}


def _statistics(item: Item, replica: Replica) -> dict[str, np.ndarray]:
    batches = replica.batches_of_every_prompt(item.task)
    statistics = collect_statistics(replica.model, batches)
    if bad := [name for name, values in statistics.items() if not np.isfinite(values).all()]:
        raise ScoreError(
            f"the means of {', '.join(bad)} are not finite; look at the model on the corrupted prompts"
        )
    return statistics


def _baseline(model: "PatchableModel", batches: "Sequence[Batch]", metrics: Sequence[str]) -> pa.Table:
    """Every metric on the clean and the corrupted side of every prompt, prompts in order."""
    none = np.zeros((len(metrics), 2, 0))
    parts = [none, *(_baseline_values(model, batch, metrics) for batch in batches)]
    prompt_ids = np.asarray([prompt for batch in batches for prompt in batch.prompt_ids], dtype=np.int64)
    values = np.concatenate(parts, axis=-1)
    if bad := int((~np.isfinite(values)).sum()):
        raise ScoreError(f"{bad} of {values.size} metric values are not finite; look at the model's logits")
    order = np.argsort(prompt_ids)
    by_metric = {name: (on[0][order], on[1][order]) for name, on in zip(metrics, values, strict=True)}
    return metrics_table(prompt_ids[order].tolist(), by_metric)


def _baseline_values(
    model: "PatchableModel", batch: "Batch", metrics: Sequence[str]
) -> Float[np.ndarray, "metric side prompt"]:
    import torch

    values = []
    with torch.no_grad():
        clean, corrupted = model.answer_hidden(batch, "clean"), model.answer_hidden(batch, "corrupted")
        for name in metrics:
            objective = model.objective(get_metric(name), batch, clean)
            values.append([objective(clean).cpu().numpy(), objective(corrupted).cpu().numpy()])
    return np.asarray(values, dtype=np.float64).reshape(len(metrics), 2, batch.n_prompts)


def _nothing(n: int) -> Moments:
    """Moments over no prompt."""
    return Moments(np.zeros(n, dtype=np.int64), np.full(n, np.nan), np.full(n, np.nan))


def _rows(payload: Payload) -> int:
    if isinstance(payload, pa.Table):
        return int(payload.num_rows)
    return len(rows_of(payload)) if isinstance(payload, EdgeScores | NodeScores | Rows) else 0


def _reset_peak_memory(replica: Replica) -> None:
    if replica.model.device.type == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats(replica.model.device)


def _peak_memory(replica: Replica) -> int:
    """Largest memory of this item on a GPU, else of this process so far, in bytes."""
    if replica.model.device.type == "cuda":
        import torch

        return int(torch.cuda.max_memory_allocated(replica.model.device))
    return process_peak_memory()
