"""The caller's side of evaluating circuits: a job per (task, shard) out, files of values back, and what they say.

Knows how values over shards become faithfulness: the metric is averaged over all prompts first, in float64
and in the order of the shards, and only then is the ratio taken. Does not know how a value is computed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.config import RunConfig
from pipeline.core.circuit import Circuit
from pipeline.core.items import Item, canonical_json
from pipeline.core.results import EDGE_SCORES
from pipeline.evaluation import Subject, Values, measured, selections
from pipeline.store.place.where import Place
from pipeline.store.run import evaluations
from pipeline.store.run.circuits import Evaluated, scores_digest
from pipeline.store.run.evaluations import EMPTY, FULL, ByPrompt
from pipeline.workers.circuit_values import FAITHFULNESS, CircuitJob, label_of, subjects_of
from pipeline.workers.jobs import Outcome, Pool

Rows = list[tuple[Evaluated, Circuit]]


@dataclass
class Judged:
    """What evaluating a run has given: faithfulness of every circuit, other findings, and the tasks that lack some
    shard."""

    rows: Rows = field(default_factory=list)
    found: list[dict[str, Any]] = field(default_factory=list)
    incomplete: list[str] = field(default_factory=list)


def circuit_jobs(
    path: Place, config: RunConfig, tasks: Mapping[str, Any], done: set[Item]
) -> dict[str, list[CircuitJob]]:
    """The jobs of every task that has scores of edges; all of its shards are asked, whoever scored them. `tasks` is
    what identifies each task."""
    jobs: dict[str, list[CircuitJob]] = {}
    for task in config.task_ids:
        scored = {item.method for item in done if item.kind == EDGE_SCORES.name and item.task == task}
        methods = tuple(method for method in config.method_ids if method in scored)
        shards = sorted({item.shard for item in done if item.kind == "baseline" and item.task == task})
        if methods and shards:
            facts = {
                "task": tasks[task],
                "evaluate": config.evaluate.key,
                "scores": scores_digest(path, task),
            }
            key = canonical_json({**facts, "methods": list(methods)})
            jobs[task] = [CircuitJob(task, shard, methods, key) for shard in shards]
    return jobs


def evaluate_circuits(
    path: Place,
    config: RunConfig,
    tasks: Mapping[str, Any],
    done: set[Item],
    pool: Pool,
    on_outcome: Callable[[Outcome], None],
) -> Judged:
    """Has every shard evaluated whose values are not there yet, and finds what they say."""
    jobs = circuit_jobs(path, config, tasks, done)
    every = [job for task_jobs in jobs.values() for job in task_jobs]
    there = {job for job in every if evaluations.has_values(_file(path, job), job.key)}
    missing = [job for job in every if job not in there]
    for outcome in pool.run(missing, attempts=1 + config.failures.retries):
        on_outcome(outcome)
        if outcome.failure is None:
            there.add(outcome.job)
    judged = Judged()
    for task, task_jobs in jobs.items():
        if not there.issuperset(task_jobs):
            judged.incomplete.append(task)
            continue
        values = [evaluations.read_values(_file(path, job)) for job in task_jobs]
        for subject in subjects_of(path, config, task, task_jobs[0].methods):
            _judge(config, subject, values, judged)
    return judged


def _file(path: Place, job: CircuitJob) -> Place:
    return evaluations.path_of(path, job.task, job.shard)


def _judge(config: RunConfig, subject: Subject, shards: Sequence[ByPrompt], judged: Judged) -> None:
    """Adds what the values of a task's shards say of one method."""
    method = subject.method

    def over_prompts(evaluation: str, circuit: str) -> Any:
        return np.concatenate([shard[method, evaluation, circuit] for shard in shards])

    chosen = selections(config.evaluate.edge_fractions, subject.scores, rank=subject.rank)
    labels = [FULL, EMPTY, *(label_of(fraction) for fraction, _ in chosen)]
    by_prompt = np.stack([over_prompts(FAITHFULNESS, label) for label in labels])
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
    curve.sort(key=lambda point: point[0])
    for evaluation in config.evaluate.also:
        ran = {label: over_prompts(evaluation.name, label) for label in evaluation.circuits(subject)}
        values = Values(by_prompt[0], by_prompt[1], ran) if ran else None
        for one in evaluation.find(subject, values, tuple(curve)):
            row_of = {"task": subject.task, "method": method, "evaluation": evaluation.name}
            judged.found.append(
                {**row_of, "circuit": one.circuit, "quantity": one.quantity, "value": one.value}
            )
