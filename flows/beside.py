"""A run that Prefect is shown beside it: the work begins before Prefect is up, and goes on whatever becomes of it.

Knows in which order a run's steps begin and end, and a thread that has somebody repeat them. Does not know what a step
does. Prefect starts when the first item is done: until then every processor is wanted for that.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import copy_context
from queue import SimpleQueue
from typing import Any

from pipeline.schedule.session import Event

PATIENCE = 60.0  # seconds after which Prefect starts beside a first item that takes longer
LEAVING = 10.0  # seconds in which Prefect may hear that the run was broken off

Begun = tuple[
    str, Callable[[], None]
]  # a step by its title, and what waits for its end and raises what ended it


class Beside:
    """What the owner of a run tells, and what the one who shows it hears, in another thread."""

    def __init__(self) -> None:
        self._steps: SimpleQueue[Begun | None] = SimpleQueue()
        self._run: Future[None] = Future()
        self._begun = threading.Event()  # there are workers
        self._wanted = threading.Event()  # somebody may begin to show it
        self._latest: Event | None = None
        self._listener: Callable[[Event], None] = self._keep

    # --- of the owner --------------------------------------------------------------------------------------

    def step(self, title: str, function: Callable[..., Any], *args: Any) -> Any:
        """Takes a step here, and has it shown there."""
        ended: Future[None] = Future()
        self._steps.put((title, ended.result))
        try:
            result = function(*args)
        except BaseException as error:
            ended.set_exception(error)
            raise
        ended.set_result(None)
        return result

    def hear(self, event: Event) -> None:
        """Passes an event on."""
        self._latest = event
        self._listener(event)
        self._begun.set()
        if event.kind != "begin":
            self._wanted.set()

    def end(self, error: BaseException | None) -> None:
        """The run is over."""
        if error is None:
            self._run.set_result(None)
        else:
            self._run.set_exception(error)
        self._steps.put(None)
        self._begun.set()
        self._wanted.set()

    # --- of the one who shows it ----------------------------------------------------------------------------

    def wait(self) -> bool:
        """Returns when it may be shown; False for one that was broken off before that, which nobody is kept waiting
        for."""
        self._begun.wait()
        self._wanted.wait(PATIENCE)
        return not self.is_broken_off

    @property
    def is_broken_off(self) -> bool:
        """Whether an error or a signal has ended it."""
        return self._run.done() and self._run.exception() is not None

    def listen(self, listener: Callable[[Event], None]) -> None:
        """Has the latest event repeated, and those to come."""
        self._listener = listener
        if self._latest is not None:
            listener(self._latest)

    def steps(self) -> Iterator[Begun]:
        """All steps from the first on, as they begin; ends with the run, and raises what ended it."""
        while (begun := self._steps.get()) is not None:
            yield begun
        self._run.result()

    def _keep(self, event: Event) -> None:
        """Nobody listens yet: the latest event is what is heard first."""


@contextmanager
def shown_beside(show: Callable[[Beside], None]) -> Iterator[Beside]:
    """Has `show` called in a thread. Waits at the end until all is shown; of a run that is broken off only for a
    moment."""
    beside = Beside()
    words = (show, beside)
    thread = threading.Thread(target=copy_context().run, args=words, name="prefect-flow", daemon=True)
    thread.start()
    try:
        yield beside
    except BaseException as error:
        beside.end(error)
        thread.join(None if isinstance(error, Exception) else LEAVING)
        raise
    beside.end(None)
    thread.join()
