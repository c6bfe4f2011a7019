"""Signals that end a run: the first is heard, and everything is let go of; further ones do not disturb that.

Knows signals. Does not know what there is to let go of: that hangs on `with` blocks, which a KeyboardInterrupt leaves.
"""

import signal
import threading
import time
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
        self.heard: float | None = None  # when
        self.ending = False  # the KeyboardInterrupt has come to where everything is let go of

    def hear(self, _signal: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.heard is None or (not self.ending and now - self.heard > LOST_SECONDS):
            self.heard = now
            raise KeyboardInterrupt


_ear = _Ear()

LOST_SECONDS = (
    10.0  # an exception raised within a destructor goes no further; whoever asks again later is heard
)


@contextmanager
def stoppable(*, last: bool = False) -> Iterator[None]:
    """Every signal that means an end is one KeyboardInterrupt, here and in what is called. To be nested where somebody
    else has taken a signal over: Prefect does so for its flows. Under `nohup` the end of the terminal means nothing.

    `last`: the process ends after this, and no signal disturbs what others do at its exit: Prefect stops its server.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _ear.hear) for number in SIGNALS if not _is_waived(number)}
    _ear.depth += 1
    try:
        yield
    except KeyboardInterrupt:
        _ear.ending = True
        raise
    except Exception:
        if _ear.heard is not None:  # what fails while everything is let go of is no news
            raise KeyboardInterrupt from None
        raise
    finally:
        _ear.depth -= 1
        if last:
            _ear.heard, _ear.ending = time.monotonic(), True
            before = dict.fromkeys(SIGNALS, signal.SIG_IGN)
        if _ear.heard is None or _ear.depth == 0:  # else deaf until everything is let go of
            for number, handler in before.items():
                signal.signal(number, handler)
        if _ear.depth == 0:
            _ear.heard, _ear.ending = None, False


def _is_waived(number: int) -> bool:
    """Whether whoever started this process wants it to outlive its terminal. Ctrl-C is heard even where a shell has
    ignored it for a job in the background: `circuits cancel` comes that way too."""
    return number == getattr(signal, "SIGHUP", None) and signal.getsignal(number) == signal.SIG_IGN
