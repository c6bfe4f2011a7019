"""Who owns a run: a process, told apart from every other one, and whether it lives.

Knows processes of this machine. Does not know how ownership is written or won (`pipeline.store.place.lock`).
"""

import contextlib
import os
import socket
from dataclasses import dataclass
from dataclasses import fields as dataclass_fields
from pathlib import Path
from typing import Any
from uuid import uuid4

from pipeline.core.errors import RunDirectoryError
from pipeline.store.place.exclusion import SILENCE_SECONDS
from pipeline.store.place.where import Place


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


def owner_of(fields: Any) -> Owner:
    """The owner that a lock names; ValueError for what names none."""
    wanted = {field.name: field.type for field in dataclass_fields(Owner)}
    if not isinstance(fields, dict) or {key: type(value) for key, value in fields.items()} != wanted:
        raise ValueError("no owner")
    if fields["pid"] < 1:  # people are told to kill it: 0 and below are groups of processes, and all of them
        raise ValueError("no process")
    return Owner(**fields)


NOBODY = Owner("an unknown host", "", 0, "", "")  # who wrote what cannot be read


def is_same_machine(one: Owner, other: Owner) -> bool:
    """Whether both run on one machine, since its last start, and see the same processes."""
    return (one.host, one.boot_id) == (other.host, other.boot_id)


def is_free(owner: Owner, silence: float, me: Owner) -> bool:
    """Whether the lock of `owner`, silent for so many seconds, may be taken over by `me`."""
    if is_same_machine(owner, me):
        return process_start(owner.pid) != owner.pid_start
    return silence > SILENCE_SECONDS


def in_use(folder: Place, owner: Owner, silence: float, me: Owner) -> RunDirectoryError:
    """What somebody is told who comes second."""
    mend = f"wait for it, or stop it (kill {owner.pid})" if is_same_machine(owner, me) else (
        f"wait for it; if that machine is gone, try again in {max(1, round(SILENCE_SECONDS - silence))} s"
    )  # fmt: skip
    return RunDirectoryError(
        f"{folder}: in use by process {owner.pid} on {owner.host} (last sign {silence:.0f} s ago); {mend}"
    )


def taken_over(folder: Place) -> RunDirectoryError:
    """What an owner is told who owns no longer."""
    return RunDirectoryError(
        f"{folder}: was taken over while this process was silent, which writes nothing further into it; "
        f"see: circuits status {folder}"
    )


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
