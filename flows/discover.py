"""The Prefect flow: a run from config to report, each step of `pipeline.schedule.conduct` one Prefect task.

Knows Prefect. A deployment gives the flow its config alone; of a run that somebody else conducts it repeats the steps.
"""

from collections.abc import Callable
from contextlib import closing
from contextvars import ContextVar
from functools import partial
from typing import Any

from prefect import flow

from flows.artifacts import viewed
from flows.beside import Beside
from flows.server import asked, ready
from flows.steps import Work, as_task
from pipeline.config import RunConfig
from pipeline.schedule.conduct import conduct, plainly
from pipeline.schedule.pools import open_pool, starting
from pipeline.schedule.preparing import prepare
from pipeline.schedule.session import Session

_repeated: ContextVar[Callable[[], str] | None] = ContextVar("repeated", default=None)


class IncompleteRunError(Exception):
    """Some items are missing: the flow run is shown as failed, with what to type next."""


@flow(name="discover", retries=0, persist_result=False, validate_parameters=False, log_prints=False)
def discover(config: dict[str, Any], run_dir: str | None = None, extend: str | None = None) -> str:
    """Runs the config, or continues its run, and returns the run directory. Deployments start here.

    Raises IncompleteRunError when items are missing in the end.
    """
    repeated = _repeated.get()
    if repeated is not None:
        return repeated()
    with (
        closing(prepare(RunConfig.from_mapping(config), run_dir, extend)) as session,
        starting(partial(open_pool, session)) as pool,
        viewed(session, lambda _: None, lambda: None) as view,
    ):

        def step(title: str, function: Callable[..., Any], *args: Any) -> Any:
            return (plainly if view.gone else as_task)(title, function, *args)

        conduct(session, pool.result(), view.show_progress, step)
        return _ended(session)


def show_flow(session: Session, beside: Beside, tell: Callable[[str], None]) -> None:
    """Has Prefect show a run that is under way as a flow, from its first step to its end. What Prefect cannot be asked
    is told; what becomes of the run is its owner's to tell."""
    work = Work(partial(_repeat, session, beside, tell))
    try:
        ready()
        with asked(lambda: beside.is_broken_off) as hang_up:
            token = _repeated.set(partial(work, hang_up))
            try:
                discover(session.config.to_mapping(), str(session.path))
            finally:
                _repeated.reset(token)
    except Exception as error:  # noqa: BLE001 - of the run, or of Prefect
        if work.error is None and not beside.is_broken_off:
            tell(f"{type(error).__name__}: {' '.join(str(error).split())}"[:200])
    except KeyboardInterrupt:
        pass  # its owner was stopped


def _repeat(
    session: Session, beside: Beside, tell: Callable[[str], None], hang_up: Callable[[], None]
) -> str:
    """The steps of the run, as tasks that end as these do, as long as Prefect can be asked: nothing waits for it."""
    with viewed(session, tell, hang_up) as view:
        beside.listen(view.show_progress)
        for title, join in beside.steps():
            if view.gone is None:
                as_task(title, join)
    return _ended(session)


def _ended(session: Session) -> str:
    """The run directory. IncompleteRunError when anything is missing."""
    if not session.is_complete:
        raise IncompleteRunError(
            f"{len(session.missing)} of {len(session.items)} items are missing"
            f"{', evaluations too' * bool(session.not_evaluated)}; "
            f"next: circuits failures {session.path}"
        )
    return str(session.path)
