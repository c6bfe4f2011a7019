"""A prepared run on Ray, with a Prefect flow beside it that shows it: the command line and sweeps come this way.

Knows in which order things start and end: Ray first, Prefect when the first item is done; then Ray goes, and Prefect is
waited for. Imports Prefect only then, unless a server is named, which has to answer before anything is computed.
"""

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

from flows.beside import Beside, shown_beside
from flows.server import may_be_named, ready
from flows.stopping import stoppable
from pipeline.schedule.conduct import conduct
from pipeline.schedule.pools import open_pool, refuse_what_is_not_here, starting
from pipeline.schedule.session import Event, OnEvent, Session, ignore
from pipeline.workers.jobs import Pool


def run_flow(session: Session, on_event: OnEvent = ignore, pool: Callable[[], Pool] | None = None) -> None:
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
        if beside.wait():
            from flows.discover import show_flow

            show_flow(session, beside, tell)

    with ExitStack() as stack:
        if may_be_named():
            ready()
        if pool is None:
            refuse_what_is_not_here(session.plan)
        beside = stack.enter_context(
            shown_beside(show)
        )  # left last: nobody waits for Prefect with workers at hand
        if pool is None:
            pool = stack.enter_context(starting(partial(open_pool, session))).result
        stack.enter_context(stoppable())  # what leaves this block lets go of all the rest, undisturbed

        def both(event: Event) -> None:
            on_event(event)
            beside.hear(event)

        conduct(session, pool(), both, beside.step)
