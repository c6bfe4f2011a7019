"""Files that are there whole or not at all, after a crash or a power cut at any moment.

Knows the local file system. Does not know what is written.

A hidden temporary file beside the target, fsync, rename, fsync of the directory. Writing the same file twice
is harmless, and so is a writer that finishes after its driver has died.
"""

import contextlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

from pipeline.core.documents import parse_json

TEMPORARY = ".tmp-"
MOST_BYTES = 1 << 24  # of a record: far more than the longest traceback
_STALE_AFTER_SECONDS = 3600.0


def write_atomic(path: Path, content: bytes | str | Callable[[Path], object]) -> None:
    """Writes bytes, text, or what a function writes to the path that it is given; folders are made.

    Raises OSError (full disk, no permission) with only the previous version left under the final name.
    """
    make_folder(path.parent)
    temporary = path.parent / f".{path.name}{TEMPORARY}{uuid4().hex}"
    try:
        if callable(content):
            content(temporary)
        else:
            temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        _fsync(temporary)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    _fsync(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Writes indented JSON for people, atomically."""
    write_atomic(path, json.dumps(value, indent=1, sort_keys=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """What a small JSON file holds. Raises OSError, and ValueError for a large one and whatever is no JSON."""
    with path.open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError(f"over {MOST_BYTES:,} bytes")
    return parse_json(content.decode("utf-8"))


def make_folder(path: Path) -> None:
    """Makes a folder and its parents so that they survive a power cut."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        _fsync(folder.parent)


def sweep_temporaries(folder: Path) -> int:
    """Removes temporary files that writers left behind over an hour ago; returns how many.

    The age spares writers that are still at it. One that is not spared fails its rename and is retried.
    """
    removed = 0
    for path in folder.rglob(f".*{TEMPORARY}*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _STALE_AFTER_SECONDS:
                path.unlink()
                removed += 1
    return removed


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
