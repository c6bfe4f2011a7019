"""The caller's side of evaluating circuits: a job per evaluation and shard out, files of values back, what they say.

Knows how values over shards become faithfulness: the metric is averaged over all prompts first, in float64
and in the order of the shards, and only then is the ratio taken. Does not know how a value is computed, nor who runs
the jobs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.config import RunConfig
from pipeline.core.circuit import Circuit
from pipeline.core.graph import Graph
from pipeline.core.items import EVALUATIONS, Item, canonical_json
from pipeline.core.results import EDGE_SCORES
from pipeline.evaluation import Curve, Evaluation, Subject, Values, measured, selections
from pipeline.store.place.where import Place
from pipeline.store.run import evaluations
from pipeline.store.run.circuits import Evaluated, scores_digest
from pipeline.store.run.evaluations import EMPTY, FAITHFULNESS, FULL, ByPrompt
from pipeline.workers.circuit_values import CircuitJob, label_of, subjects_of
from pipeline.workers.jobs import Failure


@dataclass
class Judged:
    """What the values of a run say: faithfulness of every circuit, other findings, which evaluations of which shards
    are not there, and why one has found nothing."""

    rows: list[tuple[Evaluated, Circuit]] = field(default_factory=list)
    found: list[dict[str, Any]] = field(default_factory=list)
    missing: list[Item] = field(default_factory=list)
    failures: dict[Item, Failure] = field(default_factory=dict)


def circuit_jobs(
    path: Place, config: RunConfig, graph: Graph, tasks: Mapping[str, Any], done: set[Item]
) -> dict[str, list[CircuitJob]]:
    """The jobs of every task that has scores of edges; all of its shards are asked, whoever scored them. `tasks` is
    what identifies each task. An evaluation that wants no circuits has no job."""
    jobs: dict[str, list[CircuitJob]] = {}
    alone = config.evaluate.model_copy(
        update={"also": ()}
    )  # faithfulness does not depend on what else is asked
    keys = {FAITHFULNESS: alone.key}
    keys |= {
        one.name: config.evaluate.model_copy(update={"also": (one,)}).key for one in config.evaluate.also
    }
    for task in config.task_ids:
        scored = {item.method for item in done if item.kind == EDGE_SCORES.name and item.task == task}
        methods = tuple(method for method in config.method_ids if method in scored)
        shards = sorted({item.shard for item in done if item.kind == "baseline" and item.task == task})
        if not methods or not shards:
            continue
        facts = {"task": tasks[task], "scores": scores_digest(path, task), "methods": list(methods)}
        decide = {config.method_ids[method].decides for method in methods}
        pure = {
            one.name
            for one in config.evaluate.also
            if not any(one.n_circuits(graph, decides=decides) for decides in decide)
        }
        jobs[task] = [
            CircuitJob(task, shard, name, methods, canonical_json({**facts, "evaluate": key}))
            for shard in shards
            for name, key in keys.items()
            if name not in pure
        ]
    return jobs


def values_there(path: Place, jobs: Mapping[str, Sequence[CircuitJob]]) -> set[CircuitJob]:
    """The jobs whose values are there and good."""
    every = (job for task_jobs in jobs.values() for job in task_jobs)
    return {job for job in every if evaluations.has_values(evaluations.path_of(path, job.item), job.key)}


def judge(
    path: Place, config: RunConfig, jobs: Mapping[str, Sequence[CircuitJob]], there: set[CircuitJob]
) -> Judged:
    """What the values that are there say. An evaluation that lacks a shard of a task has found nothing in it."""
    judged = Judged()
    for task, task_jobs in jobs.items():
        missing = [job for job in task_jobs if job not in there]
        judged.missing += [job.item for job in missing]
        lacking = {job.evaluation for job in missing}
        values: dict[str, list[ByPrompt]] = {}
        for job in task_jobs:
            if job.evaluation not in lacking:
                shard = evaluations.read_values(evaluations.path_of(path, job.item))
                values.setdefault(job.evaluation, []).append(shard)
        for subject in subjects_of(path, config, task, task_jobs[0].methods):
            curve: Curve = ()
            if FAITHFULNESS in values:
                curve = _faithfulness(config, subject, values[FAITHFULNESS], judged)
            for evaluation in config.evaluate.also:
                if evaluation.name not in lacking:
                    _find(evaluation, subject, values.get(evaluation.name, []), curve, judged)
    judged.missing += [item for item in judged.failures if item not in judged.missing]
    return judged


def _over_prompts(shards: Sequence[ByPrompt], method: str, evaluation: str, circuit: str) -> Any:
    return np.concatenate([shard[method, evaluation, circuit] for shard in shards])


def _faithfulness(
    config: RunConfig, subject: Subject, shards: Sequence[ByPrompt], judged: Judged
) -> list[tuple[float, float | None]]:
    """Adds the rows of one method, and returns the faithfulness of its top edges by share."""
    method = subject.method
    chosen = selections(config.evaluate.edge_fractions, subject.scores, rank=subject.rank)
    labels = [FULL, EMPTY, *(label_of(fraction) for fraction, _ in chosen)]
    by_prompt = np.stack([_over_prompts(shards, method, FAITHFULNESS, label) for label in labels])
    # prompt after prompt, whatever the layout in memory: the last bit of a mean is part of a result
    full, empty, *means = (np.asfortranarray(by_prompt).sum(axis=1) / by_prompt.shape[1]).tolist()
    curve: list[tuple[float, float | None]] = []
    for (fraction, circuit), mean in zip(chosen, means, strict=True):
        row = Evaluated(
            task=subject.task,
            method=method,
            edge_fraction=fraction,
            **measured(circuit, subject.metric, full, empty, mean),
        )
        judged.rows.append((row, circuit))
        if fraction is not None:
            curve.append((fraction, row.faithfulness))
    return sorted(curve, key=lambda point: point[0])


def _find(
    evaluation: Evaluation, subject: Subject, shards: Sequence[ByPrompt], curve: Curve, judged: Judged
) -> None:
    """Adds what an evaluation finds in one method, or why it finds nothing."""
    name, method = evaluation.name, subject.method
    labels = [label for of, _, label in (shards[0] if shards else ()) if of == method]
    ran = {label: _over_prompts(shards, method, name, label) for label in labels}
    values = Values(ran.pop(FULL), ran.pop(EMPTY), ran) if ran else None
    row = {"task": subject.task, "method": method, "evaluation": name}
    try:
        found = evaluation.find(subject, values, tuple(curve))
        rows = [
            {**row, "circuit": one.circuit, "quantity": one.quantity, "value": one.value} for one in found
        ]
        pa.Table.from_pylist(rows, schema=evaluations.FOUND)  # whether these can be written
    except Exception as error:  # noqa: BLE001 - of a package maybe; the others have their turn
        failure = Failure.of(error)
        named = replace(failure, message=f"{method}: {failure.message}")
        judged.failures.setdefault(Item(EVALUATIONS, subject.task, name, 0), named)
    else:
        judged.found += rows
