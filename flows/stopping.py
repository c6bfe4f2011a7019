"""Signals that end a run: the first is heard, and everything is let go of; further ones do not disturb that.

Knows signals. Does not know what there is to let go of: that hangs on `with` blocks, which a KeyboardInterrupt leaves.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)  # Ctrl-C; kill, Slurm, Kubernetes; the terminal is gone


class _Ear:
    """Whether this process was told to stop. One for all, as signals are."""

    def __init__(self) -> None:
        self.depth = 0
        self.heard = False

    def hear(self, _signal: int, _frame: FrameType | None) -> None:
        if not self.heard:
            self.heard = True
            raise KeyboardInterrupt


_ear = _Ear()


@contextmanager
def stoppable() -> Iterator[None]:
    """Every signal that means an end is one KeyboardInterrupt, here and in what is called. To be nested where somebody
    else has taken a signal over: Prefect does so for its flows."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _ear.hear) for number in SIGNALS}
    _ear.depth += 1
    try:
        yield
    except Exception:
        if _ear.heard:  # what fails while everything is let go of is no news
            raise KeyboardInterrupt from None
        raise
    finally:
        _ear.depth -= 1
        if _ear.depth == 0:
            _ear.heard = False
        if not _ear.heard:  # deaf until everything is let go of
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def shielded() -> Iterator[None]:
    """Processes that are started meanwhile do not hear what a terminal tells all of its processes: Ctrl-C, and that it
    is gone. They are helpers of this one, which ends them itself, and needs them until then."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def unshield() -> None:
    """Takes the shield off this thread early: from here on no helper is started."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGHUP})
