"""Stopping a run from anywhere: a file in its directory that the process at work looks for.

Knows the file, the lock's owner, and how to interrupt this process. Does not know what is interrupted. A file works
from every machine that sees the directory, needs no rights over the process, and never hits another one that has
got its number.
"""

import contextlib
import os
import signal
import threading
import time
from itertools import count
from pathlib import Path

from pipeline.core.errors import RunDirectoryError
from pipeline.store.place.lock import at_work, read_owner
from pipeline.store.place.objects import ObjectPath
from pipeline.store.place.owners import Owner
from pipeline.store.place.where import Place

CANCEL = ".cancel"
POLL_SECONDS = 2.0
_OWNER_EVERY = 5  # polls
PATIENCE = 60.0  # seconds; a file system over a network may show the file late


class Watch:
    """While it is open, a thread looks for the file and interrupts the main thread, as Ctrl-C does.

    So it does when another process has taken the directory over: this one was silent for too long.
    """

    def __init__(self, path: Place, owner: Owner) -> None:
        self._path, self._owner = path, owner
        self._every = POLL_SECONDS * (5 if isinstance(path, ObjectPath) else 1)  # a store counts requests
        self.why: str | None = None  # it has interrupted
        self._stop = threading.Event()
        (path / CANCEL).unlink(missing_ok=True)  # meant for an earlier process
        self._thread = threading.Thread(target=self._look, name="run-watch", daemon=True)
        self._thread.start()

    def _look(self) -> None:
        for looks in count(1):
            if self._stop.wait(self._every):
                return
            with contextlib.suppress(OSError):
                if (self._path / CANCEL).exists():
                    self._interrupt("cancelled")
                    return
                if looks % _OWNER_EVERY:
                    continue
                held = read_owner(self._path)
                if held is not None and held[0].token != self._owner.token:
                    self._interrupt(f"taken over by process {held[0].pid} on {held[0].host}")
                    return
                if held is None and isinstance(self._path, Path):  # in a store a claim may be on its way
                    self._interrupt("taken over by a process that has ended")
                    return

    def _interrupt(self, why: str) -> None:
        self.why = why
        os.kill(os.getpid(), signal.SIGINT)

    def close(self) -> None:
        """Looks no longer; a file that was heard goes away."""
        self._stop.set()
        self._thread.join()
        if self.why == "cancelled":
            with contextlib.suppress(OSError):
                (self._path / CANCEL).unlink(missing_ok=True)


def cancel(path: Place, patience: float = PATIENCE) -> str:
    """Stops the process at work in a run, waits until it has let go, and says how that went.

    RunDirectoryError when it does not answer.
    """
    owner = at_work(path)
    if owner is None:
        return f"{path}: nobody is at work; to go on: circuits resume {path}"
    (path / CANCEL).write_bytes(b"")
    end = time.monotonic() + patience
    while time.monotonic() < end:
        time.sleep(0.2)
        held = read_owner(path)
        if held is None or held[0].token != owner.token:
            return f"{path}: stopped process {owner.pid} on {owner.host}; to go on: circuits resume {path}"
        if at_work(path) is None:
            break
    (path / CANCEL).unlink(missing_ok=True)
    raise RunDirectoryError(
        f"{path}: process {owner.pid} on {owner.host} has not answered for {patience:.0f} s; stop it there: "
        f"kill {owner.pid}"
    )
