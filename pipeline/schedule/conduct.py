"""A run from config to report: plan, compute what is missing, aggregate, evaluate, report.

Knows the order of these steps and what a failure means for the rest. Does not know Ray, Prefect, or how an
item is computed. The run directory is the truth: whatever is killed between two lines goes on where it was.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pipeline.ablations import needs_statistics
from pipeline.config import RunConfig
from pipeline.core.errors import CircuitsError
from pipeline.core.items import Item
from pipeline.schedule.drives import run_search, searches
from pipeline.schedule.pools import open_pool
from pipeline.schedule.preparing import prepare
from pipeline.schedule.session import OnEvent, Session, enter, ignore, note
from pipeline.schedule.telling import telling
from pipeline.schedule.until import grow
from pipeline.store.place.atomic import give_reserve
from pipeline.store.place.where import Place
from pipeline.store.run import circuits as faithfulness_files
from pipeline.store.run.aggregate import aggregate as aggregate_run
from pipeline.store.run.aggregate import aggregate_in_time
from pipeline.store.run.bootstrap import Bootstrap
from pipeline.store.run.evaluations import is_found, write_found
from pipeline.store.run.opened import Run, open_run
from pipeline.workers.jobs import Outcome, Pool, failure_kind

if TYPE_CHECKING:
    from pipeline.schedule.circuit_jobs import Jobs
    from pipeline.workers.circuit_values import CircuitJob

WAVE = 64  # items per worker: long enough to keep every worker busy, short enough to be shown and stopped
ROUNDS = 3  # how often damaged files are computed again before the storage itself is blamed
REPORT = "report.html"
LAST_SECONDS = 15.0  # of a stopped run, to merge what is there: a cluster grants it 30


Step = Callable[..., Any]  # (title, function, *args) -> function(*args), shown as one step


def plainly(title: str, function: Callable[..., Any], *args: Any) -> Any:  # noqa: ARG001 - the title is for others
    """Takes a step without showing it anywhere."""
    return function(*args)


# --- steps -------------------------------------------------------------------------------------------------


def waves(session: Session, workers: int, on_event: OnEvent = ignore) -> Iterator[list[Item]]:
    """Pending items in portions, and those of the prompts that `until` adds when these are done."""
    while True:
        yield from _waves(session, workers)
        if not grow(session, on_event):
            return


def _waves(session: Session, workers: int) -> Iterator[list[Item]]:
    """Which prompts are kept comes first, and then statistics: ablations by a mean wait for them."""
    for kind in ("filtered", "statistics"):
        first = [item for item in session.pending if item.kind == kind and not _is_blocked(session, item)]
        yield from _portions(session, first, WAVE * workers)
    for combining in (False, True):  # what combines the scores of methods waits for these
        rest = [
            item
            for item in session.pending
            if bool(_combined(session, item)) == combining
            and not _is_blocked(session, item)
            and not session.plan.is_pooled(item)
        ]
        yield from _portions(session, rest, WAVE * workers)


def run_wave(session: Session, items: Sequence[Item], pool: Pool, on_event: OnEvent = ignore) -> None:
    """Computes items and enters done and failed ones into the session, failures into the directory too."""
    attempts = 1 + session.config.failures.retries
    with closing(pool.run(items, attempts=attempts, tried=session.tried)) as outcomes:
        for outcome in outcomes:
            enter(session, outcome, on_event)
            if session.stopped is not None:
                on_event(session.event("note", session.stopped))
                return


def aggregate(session: Session) -> list[Item]:
    """Merges the shards of every method; returns the items whose files turned out to be damaged, or went away."""
    wanted = session.config.aggregate
    bootstrap = Bootstrap(wanted.bootstrap, wanted.bootstrap_top) if wanted.bootstrap else None
    lost = [item for item in aggregate_run(session.directory, bootstrap) if item in session.done]
    session.done -= set(lost)
    return lost


def aggregate_what_is_there(session: Session) -> None:
    """Merges the shards of a run that is being stopped, so that it can be shown; footers say what is missing."""
    with suppress(CircuitsError, OSError):
        aggregate_in_time(session.directory, LAST_SECONDS)


def evaluate(session: Session, pool: Pool, on_event: OnEvent = ignore) -> None:
    """Writes faithfulness.parquet and circuits/, unless they are there for these scores and settings."""
    from pipeline.schedule.circuit_jobs import chosen_jobs, circuit_jobs, further_jobs
    from pipeline.schedule.evaluating import choose, judge

    key = session.evaluation_key
    if _is_evaluated(session, key):
        return

    path, config, plan = session.path, session.config, session.plan
    asked = path, config, plan.graph, plan.identity["tasks"], session.done
    jobs = circuit_jobs(*asked)
    there = _run_circuits(session, jobs, pool, on_event)
    chosen = {} if session.is_full else choose(path, config, jobs, there)
    of_chosen = chosen_jobs(*asked, chosen)
    there |= _run_circuits(session, of_chosen, pool, on_event)
    for number in range(1, max((one.rounds for one in config.evaluate.also), default=1)):
        more = {} if session.is_full else further_jobs(path, config, of_chosen, there, number)
        there |= _run_circuits(session, more, pool, on_event)
        of_chosen = {of: [*some, *more.get(of, ())] for of, some in of_chosen.items()}
        if not more:
            break
    if session.is_full:
        on_event(session.event("note", session.fullness))
        return
    judged = judge(path, config, jobs | of_chosen, there, chosen)
    for item, failure in judged.failures.items():
        outcome = Outcome(item, 1 + session.tried.get(item, 0), 0.0, 0, None, failure)
        note(session, "circuits", item, outcome, on_event)
    session.not_evaluated = [item.name for item in judged.missing]
    key |= {"incomplete": json.dumps([*json.loads(key["incomplete"]), *session.not_evaluated])}
    write_found(session.path, judged.found, key)
    faithfulness_files.write(session.path, judged.rows, key)


def _run_circuits(session: Session, jobs: "Jobs", pool: Pool, on_event: OnEvent) -> "set[CircuitJob]":
    """Runs what is not there yet, and returns all that is there then. A full disk ends it."""
    from pipeline.schedule.circuit_jobs import missing_files

    every = [job for some in jobs.values() for job in some]
    lacks = {job: files for job in every if (files := missing_files(session.path, job))}
    there = set(every) - lacks.keys()
    missing = {} if session.is_full else {replace(job, files=files): job for job, files in lacks.items()}
    tried = {job: session.tried.get(job.item, 0) for job in missing}
    attempts = 1 + session.config.failures.retries
    with closing(pool.run([*missing], attempts=attempts, tried=tried)) as outcomes:
        for outcome in outcomes:
            note(session, "circuits", outcome.job.item, outcome, on_event)
            if session.is_full:
                break
            if outcome.failure is None:
                there.add(missing[outcome.job])
    return there


def report(session: Session) -> None:
    """Writes report.html."""
    from pipeline.report.html import write_report

    write_report(open_run(session.path), session.path / REPORT)


def finish(session: Session) -> None:
    """Marks a complete run as such."""
    if session.is_complete:
        session.directory.record_filtered()
        session.directory.mark_complete()
    give_reserve(session.path)


def settle(session: Session) -> bool:
    """Whether an earlier run has left nothing to do; needs no worker.

    Items without another attempt, all files good by their checksums, the evaluation as it would be.
    """
    if session.pending or grow(session, ignore) or aggregate(session):
        return False
    if not _is_evaluated(session, session.evaluation_key):
        return False
    report(session)  # from these numbers, whatever the one that is there was drawn from
    finish(session)
    return True


# --- all of them -------------------------------------------------------------------------------------------


def conduct(session: Session, pool: Pool, on_event: OnEvent = ignore, step: Step = plainly) -> None:
    """Everything that is left to do, by `step`. What fails stays in the session; a full disk ends it."""
    on_event = session.logged(on_event)
    on_event(session.event("begin", str(session.path)))
    merged = False
    try:
        for _ in range(ROUNDS):
            for number, wave in enumerate(waves(session, pool.size, on_event), start=1):
                step(f"wave {number}", run_wave, session, wave, pool, on_event)
            for items in searches(session):
                if session.stopped is None and not any(_is_blocked(session, item) for item in items):
                    step(f"search {items[0].name}", run_search, session, items, pool, on_event)
            if session.is_full:
                return
            on_event(session.event("step", "aggregate"))
            if not step("aggregate", aggregate, session):
                break
        merged = True
        on_event(session.event("step", "evaluate"))
        step("evaluate", evaluate, session, pool, on_event)
        if session.is_full:
            return
        on_event(session.event("step", "report"))
        step("report", report, session)
        finish(session)
    except (KeyboardInterrupt, CircuitsError):
        if not merged:
            aggregate_what_is_there(session)
        raise
    except OSError as error:
        if failure_kind(error) != "storage":
            raise
        session.stopped = session.fullness
        on_event(session.event("note", session.stopped))


def discover(
    config: RunConfig,
    *,
    local: bool = False,
    on_event: OnEvent | None = None,
    quiet: bool = False,
    run_dir: str | Place | None = None,
    extend: str | Place | None = None,
) -> Run:
    """Runs what the config asks for, or continues it, and returns the run, also when items have failed.

    On Ray, or with `local` in this process. How far it is goes to stderr, a line now and then, unless `quiet`; or to
    `on_event`. Prefect plays no part here; `flows` shows the same steps in it.
    """
    if on_event is None:
        on_event = ignore if quiet else telling()
    with closing(prepare(config, run_dir, extend)) as session:
        if not settle(session):
            with session.continued(), closing(open_pool(session, local=local)) as pool:
                conduct(session, pool, on_event)
        return open_run(session.path)


# --- details -----------------------------------------------------------------------------------------------


def _is_evaluated(session: Session, key: Mapping[str, str]) -> bool:
    """Whether what evaluating gives is there, for these scores and settings."""
    found = is_found(session.path, key, wanted=bool(session.config.evaluate.also))
    return found and faithfulness_files.is_current(session.path, key)


def _portions(session: Session, items: list[Item], size: int) -> Iterator[list[Item]]:
    for start in range(0, len(items), size):
        if session.stopped is not None:
            return
        yield items[start : start + size]


def _combined(session: Session, item: Item) -> list[Item]:
    """The items whose scores an item combines."""
    methods = session.config.method_ids
    names = () if item.method is None else methods[item.method].combines
    return [replace(item, method=name, kind=methods[name].kind.name) for name in names]


def _is_blocked(session: Session, item: Item) -> bool:
    """Whether an item waits for means, for which prompts are kept, or for scores that it combines, and their own item
    has failed."""
    if any(other not in session.done for other in _combined(session, item)):
        return True
    if item.kind != "filtered" and session.config.task_ids[item.task].filter is not None:
        whole = item.kind == "statistics" or session.plan.is_pooled(item)
        shards = range(session.plan.tokens[item.task].n_shards) if whole else (item.shard,)
        if any(Item("filtered", item.task, None, shard) not in session.done for shard in shards):
            return True
    ablation = None if item.method is None else session.config.method_ids[item.method].ablation
    if ablation is None or not needs_statistics(ablation):
        return False
    return Item("statistics", item.task, None, 0) not in session.done
