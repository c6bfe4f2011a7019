"""What SIGTERM does in this process, kept while Ray starts and while it ends.

Knows sigaction(2). Ray's C++ part puts a handler in front of everybody's when it starts, which aborts the process 3 s
after a SIGTERM (ray-project/ray#64830), and leaves the system's default behind when it ends (ray-project/ray#65749):
who tells a run twice to stop would kill it in the middle of letting go.

Ray does neither where it believes that its handler is there already, or was never. A Ray that does not say what it
believes is watched, and what it takes is put back: on a busy machine that may be too late for one signal.
"""

import ctypes
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

BELIEF = "_ZN3ray6RayLog36is_failure_signal_handler_installed_E"  # ray::RayLog::is_failure_signal_handler_installed_
PAUSE = 0.005  # seconds between two looks
ACTION_BYTES = 512  # more than a `struct sigaction` takes anywhere; its first member is the handler


@contextmanager
def kept(*, starting: bool = False) -> Iterator[None]:
    """Leaves SIGTERM the handler that it has now, while Ray is `starting` or ends."""
    believed = _believe(installed=starting)
    try:
        with nullcontext() if believed else _put_back():
            yield
    finally:
        _believe(installed=False)


def _believe(*, installed: bool) -> bool:
    """Has Ray believe that; False for a Ray that says nothing of it."""
    try:
        from ray import _raylet

        ctypes.c_bool.in_dll(ctypes.CDLL(_raylet.__file__), BELIEF).value = installed
    except (ImportError, OSError, ValueError):
        return False
    return True


@contextmanager
def _put_back() -> Iterator[None]:
    """Puts back whatever handler SIGTERM has now, all the while and at the end. Python's own way is for the main
    thread alone, and Ray is started in another."""
    before = ctypes.create_string_buffer(ACTION_BYTES)
    if (
        os.name != "posix"
        or _sigaction(None, before)
        or not any(before.raw[: ctypes.sizeof(ctypes.c_void_p)])
    ):
        yield  # the default: nothing to lose
        return
    done = threading.Event()

    def look() -> None:
        while not done.wait(PAUSE):
            _sigaction(before, None)

    watch = threading.Thread(target=look, name="keep-signals", daemon=True)
    watch.start()
    try:
        yield
    finally:
        done.set()
        watch.join()
        _sigaction(before, None)


def _sigaction(new: "ctypes.Array[ctypes.c_char] | None", old: "ctypes.Array[ctypes.c_char] | None") -> int:
    return int(ctypes.CDLL(None).sigaction(int(signal.SIGTERM), new, old))
