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
from pipeline.core.items import EVALUATIONS, Item, canonical_json, digest
from pipeline.core.results import EDGE_SCORES
from pipeline.core.selection import Rank
from pipeline.evaluation import Chosen, Curve, Evaluation, Subject, measured, selections
from pipeline.evaluation.ratio import ROUNDING, faithfulness_over
from pipeline.store.place.where import Place
from pipeline.store.run import evaluations
from pipeline.store.run.circuits import Evaluated, scores_digest
from pipeline.store.run.evaluations import EMPTY, FAITHFULNESS, FULL, ByPrompt
from pipeline.workers.circuit_values import (
    CircuitJob,
    Judging,
    RuleFile,
    circuits_of,
    label_of,
    seen_so_far,
    subjects_of,
    values_over,
)
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
            asked = [one for one in wanted if of.asks(one)]
            sections = {FAITHFULNESS: _alone(config)} | _sections(config, graph, methods, asked)
            files = {name: _by_rule(config, methods, sections[name]) for name in sections}
            if jobs := _jobs(path, of, tasks, done, files):
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
    every = tuple(
        (task, method, one.fraction, one.rank)
        for task, circuits in chosen.items()
        for method, one in circuits.items()
    )
    found: Jobs = {}
    for source, circuits in chosen.items():
        methods, of_each = tuple(circuits), tuple((one.fraction, one.rank) for one in circuits.values())
        ranks = {rank for _, rank in of_each if rank is not None}
        first = min(ranks, key=config.evaluate.ranks.index, default=config.evaluate.ranks[0])
        for task in config.judges_of(source):
            for of in (
                Judging(task, source, methods, of_each),
                Judging(task, source, methods, of_each, every),
            ):
                if asked := [one for one in wanted if of.asks(one)]:
                    sections = _sections(config, graph, methods, asked)
                    files = {
                        name: (RuleFile(first, methods, one.by(first).key),) for name, one in sections.items()
                    }
                    found[of] = _jobs(path, of, tasks, done, files)
    return found


def further_jobs(
    path: Place,
    config: RunConfig,
    jobs: Jobs,
    there: set[CircuitJob],
    number: int,
) -> Jobs:
    """The jobs of the next round of evaluations that search, by the values of all rounds before; none of those that
    lack a shard, or have what they want. `jobs` are those of all rounds before."""
    searching = {one.name for one in config.evaluate.also if one.of_chosen and one.rounds > number}
    found: Jobs = {}
    for of, every in jobs.items():
        asked = {job.evaluation for job in every} & searching
        subjects = {one.method: one for one in subjects_of(path, config, of)} if asked else {}
        for name in sorted(asked):
            before = [job for job in every if job.evaluation == name]
            last = [job for job in before if job.files[0].number == number - 1]
            job = last[0] if last else before[0]
            if not last or not there.issuperset(before):
                continue
            shards = tuple(job.shard for job in last)
            file = replace(job.files[0], number=number, shards=shards)
            wanted = {method: _further(path, config, job, file, one) for method, one in subjects.items()}
            if wanted := {method: labels for method, labels in wanted.items() if labels}:
                after = {"round": number, "after": before[0].files[0].key, "circuits": digest(wanted)}
                file = replace(file, methods=tuple(wanted), key=canonical_json(after))
                found.setdefault(of, []).extend(replace(one, files=(file,)) for one in last)
    return found


def _further(path: Place, config: RunConfig, job: CircuitJob, file: RuleFile, subject: Subject) -> list[str]:
    """The labels of a method's circuits in the round of a file; what its search raises where it fails: whoever runs the
    round fails too, and that is recorded."""
    so_far = seen_so_far(path, job.of, job.evaluation, file, subject.method)
    try:
        return [] if so_far is None else sorted(circuits_of(subject, config, job.evaluation, so_far))
    except Exception as error:  # noqa: BLE001 - of a package maybe
        return [repr(error)]


def _alone(config: RunConfig) -> Evaluate:
    """The section without what else is looked at: faithfulness does not depend on it."""
    return config.evaluate.model_copy(update={"also": ()})


def _sections(
    config: RunConfig, graph: Graph, methods: Sequence[str], wanted: Sequence[Evaluation]
) -> dict[str, Evaluate]:
    """Each evaluation that wants circuits of some of these methods, as a section of its own."""
    decide = {config.method_ids[method].decides for method in methods}
    return {
        one.name: _alone(config).model_copy(update={"also": (one,)})
        for one in wanted
        if any(one.n_circuits(graph, decides=decides) for decides in decide)
    }


def _by_rule(config: RunConfig, methods: tuple[str, ...], section: Evaluate) -> tuple[RuleFile, ...]:
    """The files of an evaluation: a rule's does not depend on the other rules. What a method has decided itself no rule
    changes: it is in the first."""
    first, *others = config.evaluate.ranks
    ranking = tuple(method for method in methods if not config.method_ids[method].decides)
    once = not ranking or any(not one.by_rank for one in section.also)
    return (
        RuleFile(first, methods, section.by(first).key),
        *(RuleFile(rank, ranking, section.by(rank).key, is_first=False) for rank in ([] if once else others)),
    )


def _jobs(
    path: Place,
    of: Judging,
    tasks: Mapping[str, Any],
    done: set[Item],
    files: Mapping[str, tuple[RuleFile, ...]],
) -> list[CircuitJob]:
    """A job per shard and evaluation."""
    shards = sorted({item.shard for item in done if item.kind == "baseline" and item.task == of.task})
    facts: dict[str, Any] = {"task": tasks[of.task], "scores": scores_digest(path, of.scored)}
    if of.scored != of.task:
        facts["scored"] = tasks[of.scored]
    if of.chosen is not None:
        facts["chosen"] = [fraction for fraction, _ in of.chosen]
        ranks = [rank for _, rank in of.chosen]
        if len({rank for rank in ranks if rank is not None}) > 1:
            facts["ranks"] = ranks  # of one alone the section says it
    if of.others:
        facts["others"] = [[*one, scores_digest(path, one[0])] for one in of.others]

    def keyed(file: RuleFile) -> RuleFile:
        every = {**facts, "methods": list(file.methods), "evaluate": file.key}
        return replace(file, key=canonical_json(every))

    return [
        CircuitJob(of, shard, name, tuple(map(keyed, some)))
        for shard in shards
        for name, some in files.items()
    ]


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


def missing_files(path: Place, job: CircuitJob) -> tuple[RuleFile, ...]:
    """The files of a job that are not there, or not good."""
    return tuple(
        file for file in job.files if not evaluations.has_values(file.path(path, job.item), file.key)
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
