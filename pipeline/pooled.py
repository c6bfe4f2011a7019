"""The pooled searches of a run: which items one search makes, its durable decisions, and what is committed at its end.

Knows sessions, the log of decisions and footers. Does not know tensors, nor which process holds which prompts
(`pipeline.workers.pooled`). Whatever is killed, the next run takes over every receiver that was decided.
"""

import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from pipeline.core.errors import CircuitsError
from pipeline.core.items import Item, digest
from pipeline.core.questions import Step
from pipeline.core.scores import EdgeScores
from pipeline.methods import Acdc
from pipeline.methods.base import captures
from pipeline.planning import Plan
from pipeline.session import OnEvent, Session, enter, ignore
from pipeline.store import decisions
from pipeline.workers.execute import library_versions
from pipeline.workers.jobs import Failure, Outcome, Pool, process_peak_memory
from pipeline.workers.pooled import LostError, PooledCrew

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
        found, facts = _search(session, items[0], pool, on_event)
        seconds = time.perf_counter() - since
        for item in items:
            scores = found[item.method or ""]
            session.directory.commit(item, scores, _footer(scores, attempt, seconds, facts))
    except LostError as error:
        if pool.size < size:  # a machine has left: share the prompts out anew, and take over what was decided
            run_search(session, items, pool, on_event)
            return
        failure = error.failure
    except (CircuitsError, OSError) as error:
        failure = Failure.of(error)
    for item in items:
        enter(session, Outcome(item, attempt, time.perf_counter() - since, 0, None, failure), on_event)


def search_alone(plan: Plan, item: Item, pool: Pool) -> int:
    """The rows that the file of one such item would have; searches all of it and decides nothing durable."""
    method = plan.config.method_ids[str(item.method)]
    assert isinstance(method, Acdc), "planning pools nothing else"
    batch_size = plan.config.cluster.batch_size
    crew = PooledCrew(pool, item.task, str(item.method), plan.tokens[item.task], batch_size, attempts=1)
    search = method.search(plan.graph, crew, [method.threshold], plan.config.model.dtype)
    for _ in search.run({}):
        pass
    return len(method.result(plan.graph, search.found[method.threshold], search).score)


def _search(
    session: Session, item: Item, pool: Pool, on_event: OnEvent
) -> tuple[Mapping[str, EdgeScores], dict[str, Any]]:
    """Scores by method id, and facts about the search."""
    config, plan = session.config, session.plan
    ids = config.sweep_of(str(item.method))
    methods = {
        id_: method for id_, method in config.method_ids.items() if id_ in ids and isinstance(method, Acdc)
    }
    first = methods[ids[0]]
    key = digest(sorted(plan.item_key(Item("scores", item.task, id_, 0)) for id_ in ids))
    folder = decisions.folder_of(session.path, item.task, key)
    past = {}
    for number, fields in decisions.read(folder, key).items():
        with suppress(ValueError):  # no step: decided again, as if it were not there
            past[number] = Step.from_dict(fields)
    crew = PooledCrew(
        pool,
        item.task,
        ids[0],
        plan.tokens[item.task],
        config.cluster.batch_size,
        attempts=1 + config.failures.retries,
    )
    name = f"{item.task}/{ids[0]}" + (f" and {len(ids) - 1} more thresholds" if len(ids) > 1 else "")
    if crew.held[0] < crew.held[1]:
        on_event(
            session.event(
                "note",
                f"{name}: {crew.held[0]} of {crew.held[1]} batches fit into memory; the others are recorded again "
                "for every question (cluster.memory_per_worker, or more workers)",
            )
        )
    thresholds = [method.threshold for method in methods.values()]
    search = first.search(plan.graph, crew, thresholds, config.model.dtype)
    shown = taken = 0.0
    replayed = 0
    for step, new in search.run(past):
        if new:
            decisions.write(folder, key, step.receiver, step.to_dict())
        replayed += not new
        if time.monotonic() - shown > _SHOWN_EVERY:
            shown = time.monotonic()
            receiver = plan.graph.receivers[step.receiver].name
            kept = sum(int(found.kept.sum()) for found in search.found.values())
            on_event(session.event("step", f"{name}: decided {receiver}, {kept} edges kept so far"))
    taken = crew.waited
    results = {
        id_: first.result(plan.graph, search.found[method.threshold], search)
        for id_, method in methods.items()
    }
    facts = {
        "batch_size": config.cluster.batch_size,
        "device": crew.device,
        "forward_passes": captures(first.ablation) * crew.n_prompts,
        "workers": crew.workers,
        "replayed_receivers": replayed,
        "deaths": crew.deaths,
        "held_batches": list(crew.held),
        "workers_seconds": round(taken, 3),
        "thresholds": thresholds,
    }
    return results, facts


def _footer(scores: EdgeScores, attempt: int, seconds: float, facts: dict[str, Any]) -> dict[str, Any]:
    own = ("batch_size", "device", "forward_passes")
    return {
        "attempt": attempt,
        **{name: facts[name] for name in own},
        "seconds": round(seconds, 6),
        "peak_memory_bytes": process_peak_memory(),
        "backward_passes": 0,
        "evaluations": scores.facts["tests"] * int(scores.n_prompts.max(initial=0)),
        "versions": library_versions(),
        "facts": {**scores.facts, **{k: v for k, v in facts.items() if k not in own}},
    }
