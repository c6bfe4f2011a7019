"""One owner per run directory: who holds it, whether that process lives, and taking over from a dead one.

Knows processes and the clock of the file system or store. Does not know what the directory holds.

The lock file names host, boot, process and its start time, and is touched every few seconds. On the same
machine a process that is gone is replaced at once; a process id that went to another program is told by its
start time. Of another machine only the touches are seen: 60 s without one, and the lock is free.

In a folder the lock excludes every other owner, as far as the file system keeps `flock`. In a store it is an object,
and no store that we speak to writes one only if it is not there. Who takes it writes, waits a second, and reads whose
it is: that keeps out a second driver that starts later, or at the same moment, but not one whose own write is still
on its way after that second, nor one that is cut off for a minute, loses its lock and comes back. Two drivers that do
meet compute some items twice and commit equal files, so that results stay right and time alone is lost.
"""

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from dataclasses import fields as dataclass_fields
from pathlib import Path
from typing import Any
from uuid import uuid4

from pipeline.core.errors import RunDirectoryError, StorageError
from pipeline.store.atomic import make_folder, read_json, write_atomic
from pipeline.store.place import ObjectPath, Place, place

LOCK_NAME = ".lock"
HEARTBEAT_SECONDS = 10.0
SILENCE_SECONDS = 60.0
SETTLE_SECONDS = 1.0


@dataclass(frozen=True)
class Owner:
    """A process, told apart from every other one, on this machine or another, before or after a reboot."""

    host: str
    boot_id: str
    pid: int
    pid_start: str
    token: str


def this_process() -> Owner:
    """This process, with a token of its own for every call."""
    pid = os.getpid()
    return Owner(socket.gethostname(), _boot_id(), pid, process_start(pid) or "", uuid4().hex)


def _owner(fields: Any) -> Owner:
    """The owner that a lock names; ValueError for what names none."""
    wanted = {field.name: field.type for field in dataclass_fields(Owner)}
    if not isinstance(fields, dict) or {key: type(value) for key, value in fields.items()} != wanted:
        raise ValueError("no owner")
    if fields["pid"] < 1:  # people are told to kill it: 0 and below are groups of processes, and all of them
        raise ValueError("no process")
    return Owner(**fields)


def is_free(owner: Owner, silence: float, me: Owner) -> bool:
    """Whether the lock of `owner`, silent for so many seconds, may be taken over by `me`."""
    if (owner.host, owner.boot_id) == (me.host, me.boot_id):
        return process_start(owner.pid) != owner.pid_start
    return silence > SILENCE_SECONDS


def read_owner(folder: Place) -> tuple[Owner, float] | None:
    """Who holds the folder and for how many seconds it was silent, by the file system's clock; or None."""
    path = folder / LOCK_NAME
    try:
        owner = _owner(read_json(path))
        touched = path.stat().st_mtime
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError):  # not ours to read: as silent as the file is old
        owner = Owner("an unknown host", "", 0, "", "")
        touched = path.stat().st_mtime
    return owner, max(0.0, _file_system_now(folder) - touched)


@contextlib.contextmanager
def locked(folder: str | Place) -> Iterator[Owner]:
    """Owns `folder` (made if missing) while the block runs; RunDirectoryError when a live process does."""
    folder = place(folder)
    me = this_process()
    try:
        make_folder(folder)
        with _guard(folder):
            _take(folder, me)
        _settle(folder, me)
    except StorageError:
        raise
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise RunDirectoryError(
            f"{folder}: cannot be locked ({reason}); give a folder you can write to"
        ) from None
    stop = threading.Event()
    heart = threading.Thread(target=_beat, args=(folder, me, stop), name="run-lock", daemon=True)
    heart.start()
    try:
        yield me
    finally:
        stop.set()
        heart.join()
        with contextlib.suppress(OSError), _guard(folder):
            if _is_held_by(folder, me):
                (folder / LOCK_NAME).unlink()


def _take(folder: Place, me: Owner) -> None:
    _refuse(folder, me)
    write_atomic(folder / LOCK_NAME, json.dumps(asdict(me)))


def _refuse(folder: Place, me: Owner) -> None:
    """RunDirectoryError when somebody else has the folder."""
    held = read_owner(folder)
    if held is not None and held[0].token != me.token and not is_free(*held, me):
        owner, silence = held
        seen = (owner.host, owner.boot_id) == (me.host, me.boot_id)
        mend = f"wait for it, or stop it (kill {owner.pid})" if seen else (
            f"wait for it; if that machine is gone, try again in {max(1, round(SILENCE_SECONDS - silence))} s"
        )  # fmt: skip
        raise RunDirectoryError(
            f"{folder}: in use by process {owner.pid} on {owner.host} (last sign {silence:.0f} s ago); {mend}"
        )


def _settle(folder: Place, me: Owner) -> None:
    """In a store the last of several writers has the lock: waits until all have written, then looks who that was."""
    if isinstance(folder, ObjectPath):
        time.sleep(SETTLE_SECONDS)
        _refuse(folder, me)


def _beat(folder: Place, me: Owner, stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT_SECONDS):
        with contextlib.suppress(OSError), _guard(folder):
            if not _is_held_by(folder, me):
                return
            (folder / LOCK_NAME).touch()


def _is_held_by(folder: Place, me: Owner) -> bool:
    held = read_owner(folder)
    return held is not None and held[0].token == me.token


@contextlib.contextmanager
def _guard(folder: Place) -> Iterator[None]:
    """Keeps two processes from looking and taking at once, where the file system can do that; a store cannot."""
    if isinstance(folder, ObjectPath):
        yield
        return
    with (folder / f"{LOCK_NAME}-guard").open("a") as file:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _file_system_now(folder: Place) -> float:
    """The time as the file system writes it: what the touches of another machine are compared with."""
    probe = folder / f"{LOCK_NAME}-clock-{uuid4().hex}"
    try:
        probe.write_bytes(b"")
        return probe.stat().st_mtime
    except OSError:
        return time.time()
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)


def _boot_id() -> str:
    """This boot of the machine, and which of its processes are seen: containers that share a name number theirs alike,
    and what is not seen in one may well live in another."""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    return ""


def process_start(pid: int) -> str | None:
    """When a process of this machine started, in clock ticks since boot.

    "" where the system does not tell; None when there is no such process.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        state, *fields = stat.rpartition(")")[2].split()
        return None if state in "ZX" else fields[18]
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return ""
