"""The caller's side of evaluating circuits: a job per (task, shard) out, rows of the table back.

Knows how values over shards become faithfulness: the metric is averaged over all prompts first, in float64
and in the order of the shards, and only then is the ratio taken. Does not know how a value
is computed, nor files.
"""

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float

from pipeline.config import RunConfig
from pipeline.core.circuit import Circuit
from pipeline.core.items import Item
from pipeline.evaluation import measured
from pipeline.store.faithfulness import Evaluated
from pipeline.store.place import Place
from pipeline.workers.circuits import CircuitJob, Selection, select
from pipeline.workers.jobs import Outcome, Pool

Values = Mapping[str, Float[np.ndarray, "variant prompt"]]
Rows = list[tuple[Evaluated, Circuit]]


def circuit_jobs(config: RunConfig, done: set[Item]) -> dict[str, list[CircuitJob]]:
    """The jobs of every task that has scores of edges; all of its shards are asked, whoever scored them."""
    evaluate = config.evaluate
    jobs: dict[str, list[CircuitJob]] = {}
    for task in config.task_ids:
        scored = {item.method for item in done if item.kind == "scores" and item.task == task}
        methods = tuple(method for method in config.method_ids if method in scored)
        shards = sorted({item.shard for item in done if item.kind == "baseline" and item.task == task})
        if methods and shards:
            jobs[task] = [
                CircuitJob(task, shard, methods, evaluate.edge_fractions, evaluate.rank) for shard in shards
            ]
    return jobs


def evaluate_circuits(
    path: Place,
    config: RunConfig,
    done: set[Item],
    pool: Pool,
    on_outcome: Callable[[Outcome], None],
) -> tuple[Rows, list[str]]:
    """Rows of the table with their circuits, and the tasks for which some shard could not be evaluated."""
    jobs = circuit_jobs(config, done)
    values: dict[CircuitJob, Values] = {}
    every = [job for task_jobs in jobs.values() for job in task_jobs]
    for outcome in pool.run(every, attempts=1 + config.failures.retries):
        on_outcome(outcome)
        if outcome.failure is None:
            values[outcome.job] = outcome.result
    rows: Rows = []
    incomplete = []
    for task, task_jobs in jobs.items():
        if any(job not in values for job in task_jobs):
            incomplete.append(task)
            continue
        for method, selection in select(path, task_jobs[0]).items():
            over_prompts = np.concatenate([values[job][method] for job in task_jobs], axis=1)
            metric = str(config.method_ids[method].metric)
            rows += _rows(task, method, metric, selection, over_prompts.mean(axis=1))
    return rows, incomplete


def _rows(
    task: str, method: str, metric: str, selection: Selection, means: Float[np.ndarray, " variant"]
) -> Rows:
    full, empty = float(means[0]), float(means[1])
    return [
        (
            Evaluated(
                task=task,
                method=method,
                edge_fraction=fraction,
                **measured(circuit, metric, full, empty, float(value)),
            ),
            circuit,
        )
        for (fraction, circuit), value in zip(selection, means[2:], strict=True)
    ]
