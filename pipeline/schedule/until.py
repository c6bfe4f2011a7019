"""Prompts are added until the circuit is stable: which shards a run looks at, and why it looks at no more.

Knows the scores of single prompts that are there, shard after shard. Does not know how they are computed, nor by whom.

The plan has all prompts that there may be; the directory says how many shards of each task count (`store.run.limits`).
A shard holds the same prompts however many follow, so that a run that stops after n prompts has the scores of one that
was asked for n. What is decided depends on files alone: a run that was killed decides the same again.
"""

from contextlib import suppress
from typing import Any

from pipeline.config import RunConfig
from pipeline.config.sections import Until
from pipeline.core.errors import RunDirectoryError
from pipeline.evaluation.resamples import bootstrap, overlap_of
from pipeline.schedule.plan import Plan
from pipeline.schedule.session import OnEvent, Session
from pipeline.store.run.limits import MOST, STABLE, in_words, read_limits
from pipeline.store.run.opened import Run
from pipeline.store.run.run_dir import RunDirectory
from pipeline.tasks.base import GeneratedTask

# A quarter more at a time, and at least a shard: a few decisions, and little beyond what was needed.
_PART = 4


def begin(plan: Plan, directory: RunDirectory) -> None:
    """Limits a run to what `until` begins with, unless it has got further; lifts the limit of one without `until`."""
    until = plan.config.until
    try:
        asked, there = read_limits(directory.path)
    except RunDirectoryError:
        asked, there = {}, {}
    if until is None:
        if there:
            directory.limit({}, {})
        return
    wanted = until.model_dump(mode="json")
    known = there if asked == wanted else {}
    tasks = {
        task: known.get(task) or _limit(plan, task, first_shards(plan, task))
        for task in plan.config.discovering
    }
    if tasks != there or asked != wanted:
        directory.limit(wanted, tasks)


def first_shards(plan: Plan, task: str) -> int:
    """The shards with which a task begins: those that hold its `count`; one of a file."""
    wanted, tokens = plan.config.task_ids[task], plan.tokens[task]
    count = wanted.count if isinstance(wanted, GeneratedTask) else 1
    return min(tokens.n_shards, -(-count // tokens.per_shard))


def grow(session: Session, on_event: OnEvent) -> bool:
    """Decides for every task whose shards are all there whether they are enough; whether there is more to do now.

    Nothing is decided by files that turn out to be damaged: merging finds them too, and they are computed again.
    """
    until = session.config.until
    if until is None or session.stopped is not None:
        return False
    asked, tasks = read_limits(session.path)
    missing = {item.task for item in session.missing}
    grown = changed = False
    for task, one in tasks.items():
        if one["why"] is not None or task in missing:
            continue
        with suppress(RunDirectoryError):
            tasks[task] = _decided(session, until, task, one["shards"])
            changed, grown = True, grown or tasks[task]["shards"] > one["shards"]
            on_event(session.event("note", f"{task}: {in_words(tasks[task], asked)}"))
    if changed:
        session.directory.limit(asked, tasks)
        session.done |= session.directory.done([item for item in session.items if item not in session.done])
    return grown


def _decided(session: Session, until: Until, task: str, shards: int) -> dict[str, Any]:
    overlap = {method: _overlap(session, until, task, method) for method in asked_methods(session.config)}
    known = [value for value in overlap.values() if value is not None]
    most = session.plan.tokens[task].n_shards
    if len(known) == len(overlap) and min(known) >= until.stability:
        return _limit(session.plan, task, shards, overlap, STABLE)
    if shards == most:
        return _limit(session.plan, task, shards, overlap, MOST)
    return _limit(session.plan, task, min(most, shards + max(1, shards // _PART)), overlap)


def _overlap(session: Session, until: Until, task: str, method: str) -> float | None:
    """The mean overlap of circuits of resampled prompts by the first rule of selection, None below two prompts.
    RunDirectoryError."""
    run, rule = Run(session.directory), session.config.evaluate.ranks[0]
    rows = run.prompt_rows(method, task)
    if len(rows) < 2:
        return None
    size = max(1, int(until.fraction * run.graph.n_edges))
    drawn = bootstrap(run.graph, rows, size, rule, until.resamples, until.seed)
    return overlap_of(drawn, until.seed, samples=1).mean


def asked_methods(config: RunConfig) -> list[str]:
    """The methods whose circuits have to be stable: those whose scores are kept prompt by prompt."""
    return [
        id_ for id_, method in config.method_ids.items() if id_ in config.prompt_scores and not method.decides
    ]


def _limit(
    plan: Plan, task: str, shards: int, overlap: dict[str, float | None] | None = None, why: str | None = None
) -> dict[str, Any]:
    prompts = plan.tokens[task].of_shard(shards - 1).stop
    return {"shards": shards, "prompts": prompts, "overlap": overlap or {}, "why": why}
