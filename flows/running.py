"""A prepared run on Ray, with a Prefect flow beside it that shows it: the command line and sweeps come this way.

Knows in which order things start: Ray first, Prefect when the first item is done. Imports Prefect only then, unless a
server is named, which has to answer before anything is computed.
"""

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from flows.beside import Beside, shown_beside, starting
from flows.server import may_be_named, ready
from flows.stopping import stoppable
from pipeline.schedule.conduct import conduct
from pipeline.schedule.pools import open_pool, refuse_what_is_not_here
from pipeline.schedule.session import Event, OnEvent, Session, ignore
from pipeline.workers.jobs import Pool

if TYPE_CHECKING:
    from pipeline.cluster.early import Early


def run_flow(
    session: Session,
    on_event: OnEvent = ignore,
    pool: Callable[[], Pool] | None = None,
    early: "Early | None" = None,
) -> None:
    """Does what is left of a prepared session, and has Prefect show it; what is missing afterwards stands in the
    session, whatever Prefect says.

    A `pool` that the caller opens is the caller's to close. ConfigError where the cluster or the Prefect server that
    was asked for does not answer.
    """
    told: list[str] = []

    def tell(trouble: str) -> None:
        told.append(trouble)
        if len(told) == 1:
            text = f"Prefect cannot be asked any more ({trouble}); the run does not need it"
            on_event(session.event("note", text))

    def show(beside: Beside) -> None:
        beside.wait()
        if beside.is_broken_off:
            return
        from flows.discover import show_flow

        show_flow(session, beside, tell)

    with ExitStack() as stack:
        if pool is None:
            refuse_what_is_not_here(session.plan)
            pool = stack.enter_context(starting(partial(open_pool, session, early=early))).result
        stack.enter_context(stoppable())  # what leaves this block lets go of all the rest, undisturbed
        if may_be_named():
            ready()
        workers = pool()  # what a cluster refuses is told before Prefect starts
        beside = stack.enter_context(shown_beside(show))

        def both(event: Event) -> None:
            on_event(event)
            beside.hear(event)

        conduct(session, workers, both, beside.step)
