"""What the values of circuits say: which circuit is to be judged, and what every evaluation finds.

Knows how values over shards become faithfulness: the metric is averaged over all prompts first, in float64
and in the order of the shards, and only then is the ratio taken. Does not know how a value is computed, nor which are
asked for (`pipeline.schedule.circuit_jobs`).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.config import RunConfig
from pipeline.core.circuit import Circuit
from pipeline.core.items import EVALUATIONS, Item
from pipeline.core.selection import Rank
from pipeline.evaluation import Chosen, Curve, Evaluation, Subject, measured, selections
from pipeline.evaluation.ratio import ROUNDING, faithfulness_over
from pipeline.schedule.circuit_jobs import Jobs
from pipeline.store.place.where import Place
from pipeline.store.run import evaluations
from pipeline.store.run.circuits import Evaluated
from pipeline.store.run.evaluations import EMPTY, FAITHFULNESS, FULL, ByPrompt
from pipeline.workers.circuit_values import (
    CircuitJob,
    RuleFile,
    label_of,
    subjects_of,
    values_over,
)
from pipeline.workers.jobs import Failure


@dataclass
class Judged:
    """What the values of a run say: faithfulness of every circuit, other findings, which evaluations of which shards
    are not there, and why one has found nothing."""

    rows: list[tuple[Evaluated, Circuit]] = field(default_factory=list)
    found: list[dict[str, Any]] = field(default_factory=list)
    missing: list[Item] = field(default_factory=list)
    failures: dict[Item, Failure] = field(default_factory=dict)


def choose(
    path: Place, config: RunConfig, jobs: Jobs, there: set[CircuitJob]
) -> dict[str, dict[str, Chosen]]:
    """The circuit of every method that is to be judged, by task: by all rules the smallest whose faithfulness is within
    the bars on the prompts that its scores come from, of equal ones the nearest to 1; else the one nearest to 1;
    the kept set of a method that decides. Neither the empty circuit nor the whole graph is chosen. Tasks that lack a
    shard of faithfulness have none."""
    found: dict[str, dict[str, Chosen]] = {}
    if not any(one.of_chosen for one in config.evaluate.also):
        return found
    for of, every in jobs.items():
        own = [job for job in every if job.evaluation == FAITHFULNESS]
        if of.task == of.scored and there.issuperset(own):
            values = _read(path, own)
            known: dict[str, list[Chosen]] = {}
            for subject in subjects_of(path, config, of) if values else ():
                for one in _by_rules(config, subject):
                    candidates = _candidates(config, one, _shards(values, FAITHFULNESS, one))
                    known.setdefault(one.method, []).extend(candidates)
            best = {method: _best(config, some) for method, some in known.items()}
            if there_are := {method: one for method, one in best.items() if one is not None}:
                found[of.task] = there_are
    return found


def _candidates(config: RunConfig, subject: Subject, shards: Sequence[ByPrompt]) -> list[Chosen]:
    """The circuits of one method by one rule, the smallest first, with their faithfulness."""

    def values(label: str) -> Any:
        return _over_prompts(shards, subject.method, FAITHFULNESS, label)

    full, empty = values(FULL), values(EMPTY)
    tops = selections(config.evaluate.edge_fractions, subject.scores, rank=subject.rank)
    return [
        Chosen(
            circuit,
            fraction,
            None if fraction is None else subject.rank,
            faithfulness_over(full, empty, values(label_of(fraction))),
        )
        for fraction, circuit in sorted(tops, key=lambda one: one[1].n_edges)
        if 0 < circuit.n_edges < subject.scores.graph.n_edges
    ]


def _best(config: RunConfig, known: Sequence[Chosen]) -> Chosen | None:
    """The one to judge, of equal ones the first."""
    low, high = config.evaluate.bars.sufficient
    low, high = low - ROUNDING, high + ROUNDING

    def away(one: Chosen) -> float:
        return math.inf if one.discovery.value is None else abs(1 - one.discovery.value)

    near = [one for one in known if one.discovery.value is not None and low <= one.discovery.value <= high]
    smallest = min((one.circuit.n_edges for one in near), default=None)
    return min(
        (one for one in near if one.circuit.n_edges == smallest) if near else known, key=away, default=None
    )


def _read(path: Place, jobs: Sequence[CircuitJob]) -> dict[str, dict[RuleFile, list[ByPrompt]]]:
    """What the files of these jobs hold, by evaluation and file, without shards whose prompts a filter leaves out."""
    values: dict[str, dict[RuleFile, list[ByPrompt]]] = {}
    for job in jobs:
        for file in job.files:
            if shard := evaluations.read_values(file.path(path, job.item)):
                values.setdefault(job.evaluation, {}).setdefault(file, []).append(shard)
    return values


def _shards(
    values: Mapping[str, Mapping[RuleFile, list[ByPrompt]]], evaluation: str, subject: Subject
) -> list[ByPrompt]:
    """Those that hold the circuits of this method by this rule, in the first round."""
    return next(iter(_rounds(values, evaluation, subject)), [])


def _rounds(
    values: Mapping[str, Mapping[RuleFile, list[ByPrompt]]], evaluation: str, subject: Subject
) -> list[list[ByPrompt]]:
    """The shards of every round; a chosen circuit has one file of each whatever its rule."""
    files = values.get(evaluation, {})
    return [
        files[file]
        for file in sorted(files, key=lambda file: file.number)
        if subject.method in file.methods and (subject.chosen is not None or file.rank == subject.rank)
    ]


def _by_rules(config: RunConfig, subject: Subject) -> list[Subject]:
    """The subject by every rule; by one where it is of a chosen circuit, or of what a method has decided."""
    if subject.chosen is not None or subject.scores.kept is not None:
        return [subject]
    return [replace(subject, rank=rank) for rank in config.evaluate.ranks]


def _rank_of(config: RunConfig, subject: Subject) -> Rank | None:
    """The rule as a row says it: only of what is ranked, where there are several."""
    several = len(config.evaluate.ranks) > 1
    return subject.rank if several and subject.scores.kept is None else None


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
        values = _read(path, [job for job in every if job.evaluation not in lacking])
        if every and not values and not lacking:
            continue
        for subject in subjects_of(path, config, of):
            for place, one in enumerate(_by_rules(config, subject)):
                judging, curve = one, list[tuple[float, float | None]]()
                if of.chosen is not None:
                    judging = replace(one, chosen=chosen[of.scored][one.method])
                elif shards := _shards(values, FAITHFULNESS, one):
                    curve = _faithfulness(config, one, shards, judged)
                for evaluation in config.evaluate.also:
                    asked = of.asks(evaluation) and evaluation.name not in lacking
                    if asked and (evaluation.by_rank or place == 0):
                        rows = _find(
                            evaluation, judging, _rounds(values, evaluation.name, one), curve, judged
                        )
                        rank = _rank_of(config, one) if evaluation.by_rank else None
                        judged.found += [{**row, "rank": rank} for row in rows]
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
            rank=_rank_of(config, subject),
        )
        judged.rows.append((row, circuit))
        if fraction is not None:
            curve.append((fraction, row.faithfulness))
    return sorted(curve, key=lambda point: point[0])


def _find(
    evaluation: Evaluation,
    subject: Subject,
    rounds: Sequence[Sequence[ByPrompt]],
    curve: Curve,
    judged: Judged,
) -> list[dict[str, Any]]:
    """What an evaluation finds in one method; why it finds nothing is entered."""
    name, method = evaluation.name, subject.method
    values = values_over(rounds, method, name)
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
        return []
    return rows
