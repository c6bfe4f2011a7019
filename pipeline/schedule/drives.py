"""What looks at whole tasks: which items are computed together, the durable steps, and what is committed at the end.

Knows sessions, the log of steps and footers. Does not know tensors, nor which process holds which prompts
(`pipeline.workers.together`), nor any method. Whatever is killed, the next run takes over every step that was taken.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pipeline.core.errors import CircuitsError
from pipeline.core.items import Item, digest
from pipeline.core.prompts import TokenPair, some
from pipeline.core.results import Result, rows_of
from pipeline.methods import Cost
from pipeline.methods.collective import Collective, Drive
from pipeline.schedule import Plan
from pipeline.schedule.session import OnEvent, Session, enter, ignore
from pipeline.store.run import decisions
from pipeline.workers.execute import library_versions
from pipeline.workers.jobs import Failure, Outcome, Pool, process_peak_memory
from pipeline.workers.together import LostError, PooledWorkers

_SHOWN_EVERY = 2.0  # seconds


def searches(session: Session) -> list[tuple[Item, ...]]:
    """The pending items that are of whole tasks, those of one search together."""
    found: dict[tuple[str, tuple[str, ...]], list[Item]] = {}
    for item in session.pending:
        if item.method is not None and session.plan.is_pooled(item):
            found.setdefault((item.task, session.config.sweep_of(item.method)), []).append(item)
    return [tuple(items) for items in found.values()]


def run_search(session: Session, items: tuple[Item, ...], pool: Pool, on_event: OnEvent = ignore) -> None:
    """Searches for all thresholds that belong together, and commits those of `items`; failures enter the session."""
    since, size = time.perf_counter(), pool.size
    attempt = 1 + max(session.tried.get(item, 0) for item in items)
    failure = None
    try:
        drive, facts = _search(session, items[0], pool, on_event)
        seconds, found = time.perf_counter() - since, drive.results()
        for item in items:
            id_ = str(item.method)
            footer = _footer(drive.cost(id_), found[id_], attempt, seconds, facts)
            session.directory.commit(item, found[id_], footer)
    except LostError as error:
        if pool.size < size:  # a machine has left: share the prompts out anew, and take over what was decided
            run_search(session, items, pool, on_event)
            return
        failure = error.failure
    except (CircuitsError, OSError) as error:
        failure = Failure.of(error)
    for item in items:
        enter(session, Outcome(item, attempt, time.perf_counter() - since, 0, None, failure), on_event)


def search_alone(plan: Plan, item: Item, pool: Pool, prompts: Sequence[TokenPair]) -> int:
    """The rows that the file of one such item would have; asks all of it and writes nothing durable."""
    id_ = str(item.method)
    method = _collective(plan, id_)
    batch_size = plan.config.cluster.batch_size
    workers = PooledWorkers(pool, item.task, id_, prompts, batch_size, attempts=1)
    drive = method.drive({id_: method}, plan.graph, workers, plan.config.model.dtype)
    for _ in drive.steps({}):
        pass
    return len(rows_of(drive.results()[id_]))


def _prompts(session: Session, task: str) -> Sequence[TokenPair]:
    """The prompts that a search asks. PromptError where the task's filter keeps none."""
    if session.config.task_ids[task].filter is None:
        return session.plan.tokens[task]
    return some(session.directory.used_prompts(task), task)


def _collective(plan: Plan, method: str) -> Collective:
    found = plan.methods[method]
    assert isinstance(found, Collective), "planning pools nothing else"
    return found


def _search(session: Session, item: Item, pool: Pool, on_event: OnEvent) -> tuple[Drive, dict[str, Any]]:
    """The drive at its end, and facts about the search."""
    config, plan = session.config, session.plan
    methods = {id_: _collective(plan, id_) for id_ in config.sweep_of(str(item.method))}
    first = next(iter(methods))
    key = digest(sorted(plan.item_key(replace(item, method=id_)) for id_ in methods))
    folder = decisions.folder_of(session.path, item.task, key)
    workers = PooledWorkers(
        pool,
        item.task,
        first,
        _prompts(session, item.task),
        config.cluster.batch_size,
        attempts=1 + config.failures.retries,
    )
    more = len(methods) - 1
    name = f"{item.task}/{first}" + (f" and {more} more {methods[first].swept}s" if more else "")
    if workers.held[0] < workers.held[1]:
        on_event(
            session.event(
                "note",
                f"{name}: {workers.held[0]} of {workers.held[1]} batches fit into memory; the others are recorded "
                "again for every question (cluster.memory_per_worker, or more workers)",
            )
        )
    drive = methods[first].drive(methods, plan.graph, workers, config.model.dtype)
    shown = 0.0
    replayed = 0
    for step in drive.steps(decisions.read(folder, key)):
        if step.new:
            decisions.write(folder, key, step.number, dict(step.record))
        replayed += not step.new
        if time.monotonic() - shown > _SHOWN_EVERY:
            shown = time.monotonic()
            on_event(session.event("step", f"{name}: {step.text}"))
    facts = {
        "batch_size": config.cluster.batch_size,
        "device": workers.device,
        "workers": workers.count,
        "replayed_steps": replayed,
        "deaths": workers.deaths,
        "held_batches": list(workers.held),
        "workers_seconds": round(workers.waited, 3),
    }
    if swept := methods[first].swept:
        facts[f"{swept}s"] = [getattr(method, swept) for method in methods.values()]
    return drive, facts


def _footer(
    cost: Cost, result: Result, attempt: int, seconds: float, facts: dict[str, Any]
) -> dict[str, Any]:
    own = ("batch_size", "device")
    return {
        "attempt": attempt,
        **{name: facts[name] for name in own},
        "seconds": round(seconds, 6),
        "peak_memory_bytes": process_peak_memory(),
        "forward_passes": cost.forward_passes,
        "backward_passes": cost.backward_passes,
        "evaluations": cost.evaluations,
        "versions": library_versions(),
        "facts": {**result.facts, **{k: v for k, v in facts.items() if k not in own}},
    }
