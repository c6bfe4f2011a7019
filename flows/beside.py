"""A run that Prefect is shown beside it: the work begins before Prefect is up, and goes on whatever becomes of it.

Knows in which order a run's steps begin and end, and a thread that has a Prefect flow repeat them. Does not know what
a step does. Prefect starts when the first item is done: until then every processor is wanted for that.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any

from pipeline.schedule.session import Event
from pipeline.workers.jobs import Pool

PATIENCE = 60.0  # seconds after which Prefect starts beside a first item that takes longer
LEAVING = 10.0  # seconds in which Prefect may hear that the run was broken off


class Begun:
    """A step that is under way, as others wait for its end."""

    def __init__(self, title: str) -> None:
        self.title = title
        self._ended = threading.Event()
        self.error: BaseException | None = None

    def end(self, error: BaseException | None) -> None:
        self.error = error
        self._ended.set()

    def join(self) -> None:
        """Returns at its end; raises what ended it."""
        self._ended.wait()
        if self.error is not None:
            raise self.error


class Beside:
    """What the owner of a run tells, and what the one who shows it hears, in another thread."""

    def __init__(self) -> None:
        self._steps: SimpleQueue[Begun | None] = SimpleQueue()
        self._run = Begun("")
        self._wanted = threading.Event()  # Prefect may start
        self.is_broken_off = False
        self._listener: Callable[[Event], None] | None = None
        self._latest: Event | None = None

    # --- of the owner --------------------------------------------------------------------------------------

    def step(self, title: str, function: Callable[..., Any], *args: Any) -> Any:
        """Takes a step here, and has it shown there."""
        begun, error = Begun(title), None
        self._steps.put(begun)
        try:
            return function(*args)
        except BaseException as raised:
            error = raised
            raise
        finally:
            begun.end(error)

    def hear(self, event: Event) -> None:
        """Passes an event on."""
        self._latest = event
        if event.kind != "begin":
            self._wanted.set()
        if self._listener is not None:
            self._listener(event)

    def end(self, error: BaseException | None) -> None:
        """The run is over."""
        if error is not None and not isinstance(error, Exception):
            self.is_broken_off = True
        self._run.end(error)
        self._steps.put(None)
        self._wanted.set()

    # --- of the one who shows it ----------------------------------------------------------------------------

    def wait(self) -> None:
        """Returns when Prefect may start."""
        self._wanted.wait(PATIENCE)

    def listen(self, listener: Callable[[Event], None]) -> None:
        """Has the latest event repeated, and those to come."""
        self._listener = listener
        if self._latest is not None:
            listener(self._latest)

    def steps(self) -> Iterator[Begun]:
        """All steps from the first on, as they begin; ends with the run, and raises what ended it."""
        while (begun := self._steps.get()) is not None:
            yield begun
        self._run.join()


@contextmanager
def shown_beside(show: Callable[[Beside], None]) -> Iterator[Beside]:
    """Has `show` called in a thread. Waits at the end until all is shown; of a run that is broken off only for a
    moment."""
    beside = Beside()
    thread = threading.Thread(target=show, args=(beside,), name="prefect-flow", daemon=True)
    thread.start()
    try:
        yield beside
    except BaseException as error:
        beside.end(error)
        thread.join(None if isinstance(error, Exception) else LEAVING)
        raise
    beside.end(None)
    thread.join()


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
