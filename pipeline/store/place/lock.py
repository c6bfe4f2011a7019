"""One owner per run directory: who holds it, whether that process lives, and taking over from a dead one.

Knows the lock of a folder, and how long a process holds it or a store's claim (`claims`). Does not know
what the directory holds.

The lock file names host, boot, process and its start time, and is touched every few seconds. On the same
machine a process that is gone is replaced at once; a process id that went to another program is told by its
start time. Of another machine only the touches are seen: 60 s without one, and the lock is free. It excludes every
other owner as far as the file system keeps `flock`.

A process that was silent for so long may have been replaced without knowing, by one that may have finished since: while
it holds a folder or a prefix, whatever it writes there asks `Hold.confirm` first (`pipeline.store.place.fence`).
"""

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.core.documents import parse_json
from pipeline.core.errors import RunDirectoryError, StorageError
from pipeline.store.place import fence
from pipeline.store.place.atomic import make_folder, read_json, write_unasked
from pipeline.store.place.claims import MARK, Ownership, claim_files, read_claims, store_now
from pipeline.store.place.flock import guarded
from pipeline.store.place.owners import (
    NOBODY,
    Owner,
    in_use,
    is_free,
    owner_of,
    taken_over,
    this_process,
)
from pipeline.store.place.where import Place, place

LOCK_NAME = MARK
GUARD_NAME = f"{MARK}-guard"
HEARTBEAT_SECONDS = 10.0
_MOST_BYTES = 1 << 16


@dataclass(frozen=True)
class Hold:
    """A directory as its owner has it."""

    owner: Owner
    confirm: Callable[[], None]  # RunDirectoryError when it is not this owner's any more


def read_owner(folder: Place) -> tuple[Owner, float] | None:
    """Who holds the folder and for how many seconds it was silent, by the file system's clock; or None."""
    if not isinstance(folder, Path):
        return read_claims(folder)
    path = folder / LOCK_NAME
    try:
        owner = owner_of(read_json(path))
        touched = path.stat().st_mtime
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError):  # not ours to read: as silent as the file is old
        owner = NOBODY
        touched = path.stat().st_mtime
    try:
        now = store_now(folder)
    except OSError:  # who may only read
        now = time.time()
    return owner, max(0.0, now - touched)


def at_work(folder: Place) -> Owner | None:
    """The live process that holds the folder, or None."""
    held = read_owner(folder)
    return None if held is None or is_free(*held, this_process()) else held[0]


def lock_files(folder: Place) -> list[Place]:
    """What says who holds the folder."""
    return [folder / LOCK_NAME, *([] if isinstance(folder, Path) else claim_files(folder))]


@contextlib.contextmanager
def locked(folder: str | Place) -> Iterator[Owner]:
    """Owns `folder` (made if missing) while the block runs; RunDirectoryError when a live process does."""
    with holding(folder) as hold:
        yield hold.owner


@contextlib.contextmanager
def holding(folder: str | Place) -> Iterator[Hold]:
    """`locked`, with a way to ask later whether that still holds; whatever this process writes below asks too."""
    folder = place(folder)
    me = this_process()
    with (
        _folder_held(folder, me)
        if isinstance(folder, Path)
        else _store_held(Ownership(folder, me)) as confirm,
        fence.owning(folder, confirm),
    ):
        yield Hold(me, confirm)


@contextlib.contextmanager
def _store_held(ownership: Ownership) -> Iterator[Callable[[], None]]:
    ownership.enter()
    try:
        with _beating(lambda: ownership.keep() or not ownership.is_lost):
            yield ownership.confirm
    finally:
        with contextlib.suppress(OSError):
            ownership.leave()


@contextlib.contextmanager
def _folder_held(folder: Path, me: Owner) -> Iterator[Callable[[], None]]:
    try:
        make_folder(folder)
        with guarded(folder / GUARD_NAME):
            _take(folder, me)
    except StorageError:
        raise
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise RunDirectoryError(
            f"{folder}: cannot be locked ({reason}); give a folder you can write to"
        ) from None
    try:
        with _beating(lambda: _touch(folder, me)):
            yield lambda: _require(folder, me)
    finally:
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            with contextlib.suppress(RunDirectoryError):  # who keeps the guard keeps takers away as well
                stack.enter_context(guarded(folder / GUARD_NAME))
            if _is_held_by(folder, me):
                (folder / LOCK_NAME).unlink()


@contextlib.contextmanager
def _beating(beat: Callable[[], bool]) -> Iterator[None]:
    """Calls `beat` every few seconds, until it says that there is no more use in that."""
    stop = threading.Event()

    def go_on() -> None:
        while not stop.wait(HEARTBEAT_SECONDS):
            with contextlib.suppress(OSError):
                if not beat():
                    return

    heart = threading.Thread(target=go_on, name="run-lock", daemon=True)
    heart.start()
    try:
        yield
    finally:
        stop.set()
        heart.join()


# --- in a folder -------------------------------------------------------------------------------------------


def _take(folder: Path, me: Owner) -> None:
    held = read_owner(folder)
    if held is not None and not is_free(*held, me):
        raise in_use(folder, *held, me)
    write_unasked(folder / LOCK_NAME, json.dumps(asdict(me)))


def _require(folder: Path, me: Owner) -> None:
    """RunDirectoryError unless the lock is this owner's: whoever took it over may have finished, and left none."""
    if _is_held_by(folder, me):
        return
    if not folder.is_dir():
        raise RunDirectoryError(
            f"{folder}: was moved or removed while its run was under way; put it back, or resume it where it is"
        )
    raise taken_over(folder)


def _touch(folder: Path, me: Owner) -> bool:
    """Says that this owner lives; whether the lock is still its own. Touches the file that it has read: one that
    another process puts in its place meanwhile stays as it is."""
    try:
        with (folder / LOCK_NAME).open("rb") as file:
            if owner_of(parse_json(file.read(_MOST_BYTES).decode())).token != me.token:
                return False
            os.utime(file.fileno())
    except (FileNotFoundError, ValueError):
        return False
    return True


def _is_held_by(folder: Path, me: Owner) -> bool:
    """Raises OSError where the lock cannot be read."""
    try:
        return owner_of(read_json(folder / LOCK_NAME)).token == me.token
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
