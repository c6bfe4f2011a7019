"""The caller's side of evaluating circuits: a job per evaluation and shard out, files of values back, what they say.

Knows how values over shards become faithfulness: the metric is averaged over all prompts first, in float64
and in the order of the shards, and only then is the ratio taken. Does not know how a value is computed, nor who runs
the jobs.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.config import RunConfig
from pipeline.config.sections import Evaluate
from pipeline.core.circuit import Circuit
from pipeline.core.graph import Graph
from pipeline.core.items import EVALUATIONS, Item, canonical_json
from pipeline.core.results import EDGE_SCORES
from pipeline.evaluation import Chosen, Curve, Evaluation, Subject, Values, measured, selections
from pipeline.evaluation.ratio import faithfulness_over
from pipeline.store.place.where import Place
from pipeline.store.run import evaluations
from pipeline.store.run.circuits import Evaluated, scores_digest
from pipeline.store.run.evaluations import EMPTY, FAITHFULNESS, FULL, ByPrompt
from pipeline.workers.circuit_values import CircuitJob, Judging, label_of, subjects_of
from pipeline.workers.jobs import Failure

Jobs = dict[Judging, list[CircuitJob]]


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
) -> Jobs:
    """The jobs of every task for whose circuits, or those of the task that it is held out of, there are scores; all of
    its shards are asked, whoever scored them. `tasks` is what identifies each task. An evaluation that wants no
    circuits has no job, and those of a chosen circuit have theirs once it is chosen (`chosen_jobs`)."""
    wanted = [one for one in config.evaluate.also if not one.of_chosen]
    found: Jobs = {}
    for task in config.task_ids:
        source = config.source_of(task)
        scored = {item.method for item in done if item.kind == EDGE_SCORES.name and item.task == source}
        methods = tuple(method for method in config.method_ids if method in scored)
        if methods:
            of = Judging(task, source, methods)
            keys = {FAITHFULNESS: _alone(config).key} | _keys(config, graph, methods, wanted)
            if jobs := _jobs(path, of, tasks, done, keys):
                found[of] = jobs
    return found


def chosen_jobs(
    path: Place,
    config: RunConfig,
    graph: Graph,
    tasks: Mapping[str, Any],
    done: set[Item],
    chosen: Mapping[str, Mapping[str, Chosen]],
) -> Jobs:
    """The jobs of evaluations of a chosen circuit, on the prompts that judge it. `chosen` is by task and method."""
    wanted = [one for one in config.evaluate.also if one.of_chosen]
    found: Jobs = {}
    for source, circuits in chosen.items():
        methods, fractions = tuple(circuits), tuple(one.fraction for one in circuits.values())
        for task in config.judges_of(source):
            of = Judging(task, source, methods, fractions)
            found[of] = _jobs(path, of, tasks, done, _keys(config, graph, methods, wanted))
    return found


def _alone(config: RunConfig) -> Evaluate:
    """The section without what else is looked at: faithfulness does not depend on it."""
    return config.evaluate.model_copy(update={"also": ()})


def _keys(
    config: RunConfig, graph: Graph, methods: Sequence[str], wanted: Sequence[Evaluation]
) -> dict[str, str]:
    """A digest of the parameters of each evaluation that wants circuits of some of these methods."""
    decide = {config.method_ids[method].decides for method in methods}
    return {
        one.name: _alone(config).model_copy(update={"also": (one,)}).key
        for one in wanted
        if any(one.n_circuits(graph, decides=decides) for decides in decide)
    }


def _jobs(
    path: Place, of: Judging, tasks: Mapping[str, Any], done: set[Item], keys: Mapping[str, str]
) -> list[CircuitJob]:
    """A job per shard and evaluation."""
    shards = sorted({item.shard for item in done if item.kind == "baseline" and item.task == of.task})
    facts = {"task": tasks[of.task], "scores": scores_digest(path, of.scored), "methods": list(of.methods)}
    if of.scored != of.task:
        facts["scored"] = tasks[of.scored]
    if of.chosen is not None:
        facts["chosen"] = list(of.chosen)
    return [
        CircuitJob(of, shard, name, canonical_json({**facts, "evaluate": key}))
        for shard in shards
        for name, key in keys.items()
    ]


def choose(
    path: Place, config: RunConfig, jobs: Jobs, there: set[CircuitJob]
) -> dict[str, dict[str, Chosen]]:
    """The circuit of every method that is to be judged, by task: the smallest whose faithfulness is within the bars
    on the prompts that its scores come from, else the one nearest to 1;
    the kept set of a method that decides. Neither the empty circuit nor the whole graph is chosen. Tasks that lack a
    shard of faithfulness have none."""
    found: dict[str, dict[str, Chosen]] = {}
    if not any(one.of_chosen for one in config.evaluate.also):
        return found
    for of, every in jobs.items():
        own = [job for job in every if job.evaluation == FAITHFULNESS]
        if of.task == of.scored and there.issuperset(own):
            every_shard = (evaluations.read_values(evaluations.path_of(path, job.item)) for job in own)
            shards = [shard for shard in every_shard if shard]
            for subject in subjects_of(path, config, of) if shards else ():
                if (one := _chosen(config, subject, shards)) is not None:
                    found.setdefault(of.task, {})[subject.method] = one
    return found


def _chosen(config: RunConfig, subject: Subject, shards: Sequence[ByPrompt]) -> Chosen | None:
    def values(label: str) -> Any:
        return _over_prompts(shards, subject.method, FAITHFULNESS, label)

    def away(one: Chosen) -> float:
        return math.inf if one.discovery.value is None else abs(1 - one.discovery.value)

    full, empty = values(FULL), values(EMPTY)
    tops = selections(config.evaluate.edge_fractions, subject.scores, rank=subject.rank)
    known = [
        Chosen(circuit, fraction, faithfulness_over(full, empty, values(label_of(fraction))))
        for fraction, circuit in sorted(tops, key=lambda one: one[1].n_edges)
        if 0 < circuit.n_edges < subject.scores.graph.n_edges
    ]
    low, high = config.evaluate.bars.sufficient
    near = [one for one in known if one.discovery.value is not None and low <= one.discovery.value <= high]
    return near[0] if near else min(known, key=away, default=None)


def values_there(path: Place, jobs: Jobs) -> set[CircuitJob]:
    """The jobs whose values are there and good."""
    every = (job for some in jobs.values() for job in some)
    return {job for job in every if evaluations.has_values(evaluations.path_of(path, job.item), job.key)}


def judge(
    path: Place,
    config: RunConfig,
    jobs: Jobs,
    there: set[CircuitJob],
    chosen: Mapping[str, Mapping[str, Chosen]],
) -> Judged:
    """What the values that are there say: faithfulness, and what every evaluation finds. One that lacks a shard of a
    task has found nothing in it."""
    judged = Judged()
    for of, every in jobs.items():
        missing = [job for job in every if job not in there]
        judged.missing += [job.item for job in missing]
        lacking = {job.evaluation for job in missing}
        values: dict[str, list[ByPrompt]] = {}
        for job in every:
            if job.evaluation not in lacking:
                shard = evaluations.read_values(evaluations.path_of(path, job.item))
                if shard:  # a filter may have kept no prompt of one
                    values.setdefault(job.evaluation, []).append(shard)
        if every and not values and not lacking:
            continue
        for subject in subjects_of(path, config, of):
            judging, curve = subject, list[tuple[float, float | None]]()
            if of.chosen is not None:
                judging = replace(subject, chosen=chosen[of.scored][subject.method])
            elif FAITHFULNESS in values:
                curve = _faithfulness(config, subject, values[FAITHFULNESS], judged)
            for evaluation in config.evaluate.also:
                if evaluation.of_chosen == (of.chosen is not None) and evaluation.name not in lacking:
                    _find(evaluation, judging, values.get(evaluation.name, []), curve, judged)
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
