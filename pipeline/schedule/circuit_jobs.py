"""Which circuits are to be run for evaluations: a job per evaluation and shard, and what its files are keyed by.

Knows what an evaluation of circuits depends on, and in which order evaluations can be asked. Does not know how a value
is computed, what values say (`pipeline.schedule.evaluating`), nor who runs the jobs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pipeline.config import RunConfig
from pipeline.config.related import judges_of
from pipeline.config.sections import Evaluate
from pipeline.core.graph import Graph
from pipeline.core.items import Item, canonical_json, digest
from pipeline.core.results import EDGE_SCORES
from pipeline.evaluation import Chosen, Evaluation, Subject
from pipeline.store.place.where import Place
from pipeline.store.run import evaluations
from pipeline.store.run.circuits import scores_digest
from pipeline.store.run.evaluations import FAITHFULNESS
from pipeline.workers.circuit_values import (
    CircuitJob,
    Judging,
    RuleFile,
    circuits_of,
    seen_so_far,
    subjects_of,
)

Jobs = dict[Judging, list[CircuitJob]]


def circuit_jobs(
    path: Place, config: RunConfig, graph: Graph, tasks: Mapping[str, Any], done: set[Item]
) -> Jobs:
    """The jobs of every task for whose circuits, or those of the task that it is held out of, there are scores; all of
    its shards are asked, whoever scored them. `tasks` is what identifies each task. An evaluation that wants no
    circuits has no job, and those of a chosen circuit have theirs once it is chosen (`chosen_jobs`)."""
    wanted = [one for one in config.evaluate.also if not one.of_chosen]
    found: Jobs = {}
    for task in config.task_ids:
        source = config.task_ids[task].held_out_of or task
        scored = {item.method for item in done if item.kind == EDGE_SCORES.name and item.task == source}
        methods = tuple(id_ for id_, one in config.method_ids.items() if id_ in scored and one.drawn is None)
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
        for task in judges_of(source, config.task_ids):
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


def missing_files(path: Place, job: CircuitJob) -> tuple[RuleFile, ...]:
    """The files of a job that are not there, or not good."""
    return tuple(
        file for file in job.files if not evaluations.has_values(file.path(path, job.item), file.key)
    )
