"""The Prefect flow: a run from config to report, each step of `pipeline.schedule.conduct` one Prefect task.

Knows Prefect and in which order things start. The command line prepares the session before, so that bad
input is told at once; a deployment gives the flow its config alone.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from contextvars import ContextVar
from functools import partial
from typing import Any

from prefect import flow

from flows.artifacts import viewed
from flows.server import asked, ready
from flows.steps import Work, as_task
from flows.stopping import stoppable
from pipeline.config import RunConfig
from pipeline.schedule.conduct import conduct, plainly
from pipeline.schedule.pools import open_pool, refuse_what_is_not_here
from pipeline.schedule.preparing import prepare
from pipeline.schedule.session import Event, OnEvent, Session, ignore
from pipeline.workers.jobs import Pool

_prepared: ContextVar[Callable[[], str] | None] = ContextVar("prepared", default=None)


class IncompleteRunError(Exception):
    """Some items are missing: the flow run is shown as failed, with what to type next."""


def run_flow(session: Session, on_event: OnEvent = ignore, pool: Callable[[], Pool] | None = None) -> None:
    """Runs the flow on a prepared session; what is missing afterwards stands in the session, whatever Prefect says.

    Ray starts in a thread while Prefect starts here; a `pool` that the caller opens is the caller's to close.
    ConfigError where the cluster or the Prefect server that was asked for does not answer.
    """
    told: list[str] = []

    def tell(trouble: str) -> None:
        told.append(trouble)
        if len(told) == 1:
            text = f"Prefect cannot be asked any more ({trouble}); the run does not need it"
            on_event(session.event("note", text))

    with ExitStack() as stack:
        ready()
        is_mine = pool is None
        if pool is None:
            refuse_what_is_not_here(session.plan)
            pool = stack.enter_context(starting(partial(open_pool, session))).result
        stack.enter_context(stoppable())  # what leaves this block lets go of all the rest, undisturbed
        if is_mine and session.config.cluster.address != "local":
            pool()  # what a cluster refuses is told before Prefect starts
        work = Work(partial(_steps, session, pool, on_event, tell))

        def shown() -> None:
            with asked() as hang_up:
                token = _prepared.set(partial(work, hang_up))
                try:
                    discover(session.config.to_mapping(), str(session.path))
                finally:
                    _prepared.reset(token)

        with suppress(IncompleteRunError):
            work.despite(shown, on_trouble=lambda error: tell(_line(error)))


@flow(name="discover", retries=0, persist_result=False, validate_parameters=False, log_prints=False)
def discover(config: dict[str, Any], run_dir: str | None = None, extend: str | None = None) -> str:
    """Runs the config, or continues its run, and returns the run directory. Deployments start here.

    Raises IncompleteRunError when items are missing in the end.
    """
    prepared = _prepared.get()
    if prepared is not None:
        with stoppable():  # Prefect has taken SIGTERM over
            return prepared()
    with (
        closing(prepare(RunConfig.from_mapping(config), run_dir, extend)) as session,
        starting(partial(open_pool, session)) as pool,
    ):
        return _steps(session, pool.result, ignore, lambda _: None, lambda: None)


def _steps(
    session: Session,
    pool: Callable[[], Pool],
    on_event: OnEvent,
    tell: Callable[[str], None],
    hang_up: Callable[[], None] | None = None,
) -> str:
    """All that is left to do, shown by Prefect as long as it can be asked: nothing waits for it. Without a way to
    `hang_up` there is no Prefect at all."""
    if hang_up is None:
        conduct(session, pool(), on_event)
    else:
        with viewed(session, tell, hang_up) as view:

            def both(event: Event) -> None:
                on_event(event)
                view.show_progress(event)

            def step(title: str, function: Callable[..., Any], *args: Any) -> Any:
                return (plainly if view.gone else as_task)(title, function, *args)

            conduct(session, pool(), both, step)
    if not session.is_complete:
        raise IncompleteRunError(
            f"{len(session.missing)} of {len(session.items)} items are missing"
            f"{', evaluations too' * bool(session.not_evaluated)}; "
            f"next: circuits failures {session.path}"
        )
    return str(session.path)


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]


@contextmanager
def starting(open_: Callable[[], Pool]) -> "Iterator[Future[Pool]]":
    """The pool that `open_` returns, on its way; closed at the end."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="start-pool") as thread:
        pool = thread.submit(open_)
        try:
            yield pool
        finally:
            if pool.exception() is None:
                pool.result().close()
