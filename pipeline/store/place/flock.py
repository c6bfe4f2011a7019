"""One process at a time at the lock of a folder, where the file system keeps `flock`.

Knows the guard file, who may open it and who keeps it. Does not know what is decided while it is kept.

It is kept for milliseconds. Whoever may not write into the folder cannot open it, and so keeps nobody waiting; whoever
can is named after a few seconds, in place of a wait without end.
"""

import contextlib
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from pipeline.core.errors import RunDirectoryError

PATIENCE = 5.0  # seconds
_PAUSE = 0.02


@contextlib.contextmanager
def guarded(path: Path) -> Iterator[None]:
    """Keeps the guard file at `path`, made if missing, while the block runs. RunDirectoryError when somebody else does
    for longer than PATIENCE, OSError when it cannot be opened."""
    descriptor = _open(path)
    try:
        _keep(path, descriptor)
        yield
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    """Read and write for those who may write into the folder, nothing for others."""
    writers = path.parent.stat().st_mode & 0o222
    mode = 0o600 | writers | writers << 1
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, mode)
    if stat.S_IMODE(os.fstat(descriptor).st_mode) != mode:  # the umask; an earlier version
        with contextlib.suppress(OSError):
            os.fchmod(descriptor, mode)
    return descriptor


def _keep(path: Path, descriptor: int) -> None:
    end = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                raise RunDirectoryError(
                    f"{path}: is kept locked by {_keeper(descriptor)}; end that, or try again when it has ended"
                ) from None
            time.sleep(_PAUSE)
        except OSError:  # no locks here: what is written excludes others as far as it can
            return
        else:
            return


def _keeper(descriptor: int) -> str:
    """Who has locked an open file, in words."""
    inode = os.fstat(descriptor).st_ino
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/locks").read_text(encoding="ascii").splitlines():
            fields = line.split()
            if fields[1] == "FLOCK" and int(fields[5].rpartition(":")[2]) == inode and int(fields[4]) > 0:
                name = Path(f"/proc/{fields[4]}/comm").read_text(encoding="utf-8", errors="replace").strip()
                return f"process {fields[4]} ({name})"
    return "a process that cannot be seen from here"
