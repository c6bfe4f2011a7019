"""Files that are there whole or not at all, after a crash or a power cut at any moment.

Knows how a folder and a store make a file durable. Does not know what is written.

In a folder: a hidden temporary file beside the target, fsync, rename, fsync of the directory. In a store: one put
under the final key. Writing the same file twice is harmless, and so is a writer that finishes after its driver has
died. In a run that this process owns, every write and removal asks `fence` first whether it still does.
"""

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias
from uuid import uuid4

from pipeline.core.documents import parse_json
from pipeline.store.place import fence
from pipeline.store.place.objects import ObjectPath
from pipeline.store.place.seal import sealed_json, without_seal
from pipeline.store.place.where import BAD, Place

Content: TypeAlias = bytes | str | Callable[[Path], object]

TEMPORARY = ".tmp-"
MOST_BYTES = 1 << 24  # of a record: far more than the longest traceback
_STALE_AFTER_SECONDS = 3600.0
RESERVE = ".reserve"  # gives way when the disk is full, so that the record of that still fits
_RESERVE_BYTES = 1 << 16


def write_atomic(path: Place, content: Content) -> None:
    """Writes bytes, text, or what a function writes to the path that it is given; folders are made.

    Raises OSError (full disk, no permission, a store that refuses) with only the previous version left under the
    final name, and RunDirectoryError where this process no longer owns the run.
    """
    fence.ask(path)
    _write(path, content, partial(fence.ask, path))


def write_unasked(path: Place, content: Content) -> None:
    """`write_atomic` for what says itself who owns a run."""
    _write(path, content, lambda: None)


def _write(path: Place, content: Content, ask: Callable[[], None]) -> None:
    if isinstance(path, ObjectPath):
        _put(path, content, ask)
        return
    make_folder(path.parent)
    temporary = path.parent / f".{path.name}{TEMPORARY}{uuid4().hex}"
    try:
        if callable(content):
            content(temporary)
        else:
            temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        _fsync(temporary)
        ask()
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    _fsync(path.parent)


def _put(path: ObjectPath, content: Content, ask: Callable[[], None]) -> None:
    if not callable(content):
        ask()
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return
    with tempfile.TemporaryDirectory(prefix="circuits-") as folder:
        draft = Path(folder, path.name)
        content(draft)
        ask()
        with draft.open("rb") as file:
            path.put(file, draft.stat().st_size)


def write_json(path: Place, value: Mapping[str, Any], *, indent: int | None = 1) -> None:
    """Writes a JSON object atomically, for people too, with a seal over it."""
    write_atomic(path, sealed_json(value, indent))


def read_json(path: Place) -> Any:
    """What a small JSON file holds, without its seal. Raises OSError, and ValueError for a large one and whatever is
    no JSON."""
    with path.open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError(f"over {MOST_BYTES:,} bytes")
    return without_seal(parse_json(content.decode("utf-8")))


def make_folder(path: Place) -> None:
    """Makes a folder and its parents so that they survive a power cut; a store needs none."""
    if isinstance(path, ObjectPath):
        return
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        _fsync(folder.parent)


def sweep_temporaries(folder: Place) -> int:
    """Removes temporary files that writers left behind over an hour ago; returns how many.

    The age spares writers that are still at it. One that is not spared fails its rename and is retried.
    """
    removed = 0
    for path in folder.rglob(f".*{TEMPORARY}*"):
        with contextlib.suppress(OSError):
            if is_stale(path):
                path.unlink()
                removed += 1
    return removed


def is_stale(path: Place) -> bool:
    """Whether a temporary file is so old that nobody writes it any more."""
    return time.time() - path.stat().st_mtime > _STALE_AFTER_SECONDS


def remove(path: Place) -> None:
    """Removes a file, if it is there. Raises RunDirectoryError where this process no longer owns the run."""
    fence.ask(path)
    path.unlink(missing_ok=True)


def set_aside(path: Place) -> None:
    """Renames a file `_bad-...`, if it is there: out of the way of readers, and there for who wants to look."""
    fence.ask(path)
    target: Any = path.with_name(f"{BAD}{uuid4().hex[:8]}-{path.name}")
    with contextlib.suppress(FileNotFoundError):
        path.rename(target)


def remove_tree(folder: Place) -> None:
    """Removes all that lies below, as far as it can be removed. Raises RunDirectoryError where this process no longer
    owns the run."""
    for path in folder.rglob("*"):
        if isinstance(path, ObjectPath) or path.is_symlink() or not path.is_dir():
            with contextlib.suppress(PermissionError):
                remove(path)
    if isinstance(folder, Path):
        shutil.rmtree(folder, ignore_errors=True)  # of folders


def set_reserve(folder: Place) -> None:
    """Takes up some room of a disk, to be given back when it is full; a store has no end. Raises OSError."""
    if isinstance(folder, Path):
        write_atomic(folder / RESERVE, bytes(_RESERVE_BYTES))


def give_reserve(folder: Place) -> None:
    """Gives that room back."""
    if isinstance(folder, Path):
        remove(folder / RESERVE)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
