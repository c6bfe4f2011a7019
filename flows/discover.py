"""The Prefect flow: a run from config to report, each step of `pipeline.run` one Prefect task.

Knows Prefect and in which order things start. The command line prepares the session before, so that bad
input is told at once; a deployment gives the flow its config alone.
"""

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any

from prefect import flow

from flows import artifacts
from flows.guard import guard
from flows.steps import as_task
from flows.stopping import shielded, stoppable, unshield
from pipeline.config import RunConfig
from pipeline.run import conduct, open_pool, prepare, refuse_what_is_not_here
from pipeline.session import OnEvent, Session, ignore
from pipeline.workers.jobs import Pool


@dataclass(frozen=True)
class Prepared:
    """What the caller of the flow has in its hands already."""

    session: Session
    pool: Callable[[], Pool]  # waits until it is open
    on_event: OnEvent


_prepared: ContextVar[Prepared | None] = ContextVar("prepared", default=None)


class IncompleteRunError(Exception):
    """Some items are missing: the flow run is shown as failed, with what to type next."""


def run_flow(session: Session, on_event: OnEvent = ignore, pool: Callable[[], Pool] | None = None) -> None:
    """Runs the flow on a prepared session; what is missing afterwards stands in the session.

    Ray starts in a thread while Prefect starts here; a `pool` that the caller opens is the caller's to close.
    """
    with ExitStack() as stack:
        is_mine = pool is None
        if pool is None:
            refuse_what_is_not_here(session.plan)
            pool = stack.enter_context(starting(partial(open_pool, session))).result
        stack.enter_context(stoppable())  # what leaves this block lets go of all the rest, undisturbed
        if is_mine and session.config.cluster.address != "local":
            pool()  # what a cluster refuses is told before Prefect starts
        token = _prepared.set(Prepared(session, pool, on_event))
        try:
            with suppress(IncompleteRunError), shielded():  # Prefect starts its server, then calls the flow
                discover(session.config.to_mapping(), str(session.path))
        finally:
            _prepared.reset(token)


@flow(name="discover", retries=0, persist_result=False, validate_parameters=False, log_prints=False)
def discover(config: dict[str, Any], run_dir: str | None = None, extend: str | None = None) -> str:
    """Runs the config, or continues its run, and returns the run directory. Deployments start here.

    Raises IncompleteRunError when items are missing in the end.
    """
    _guard_server()
    prepared = _prepared.get()
    if prepared is not None:
        unshield()
        with stoppable():  # Prefect has taken SIGTERM over
            return _steps(prepared.session, prepared.pool, prepared.on_event)
    with (
        closing(prepare(RunConfig.from_mapping(config), run_dir, extend)) as session,
        starting(partial(open_pool, session)) as pool,
    ):
        return _steps(session, pool.result, ignore)


def _steps(session: Session, pool: Callable[[], Pool], on_event: OnEvent) -> str:
    artifacts.show_plan(session)
    progress = artifacts.ProgressArtifact(session, on_event)
    conduct(session, pool(), progress, step=as_task)
    progress.finish(session)
    artifacts.show_failures(session)
    artifacts.show_faithfulness(session)
    if not session.is_complete:
        raise IncompleteRunError(
            f"{len(session.missing)} of {len(session.plan.items)} items are missing; "
            f"next: circuits failures {session.path}"
        )
    return str(session.path)


def _guard_server() -> None:
    """Prefect ends its own small server when this process exits; also where that comes without a word."""
    module = sys.modules.get(
        "prefect.server.api.server"
    )  # who has started one has imported this, which takes long
    if module is not None and (server := module.SubprocessASGIServer().server_process) is not None:
        guard(server.pid)


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
