"""The runs that this process owns, asked about before anything in them is written or taken away.

Knows folders and what each owner's lock says. Does not know locks, nor what is written (`pipeline.store.place.atomic`).

A process that was stopped for a minute may have been replaced by another that has finished since. What it writes then
would stand over newer results, so that every write and every removal in a run that is owned asks here first, at the
last moment before it shows; there is no list of writers that could forget one. A process that owns nothing, a worker
or a reader, is not asked: a worker that is late writes an item's file once more as it was.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath

from pipeline.store.place.where import Place

Confirm = Callable[[], None]  # RunDirectoryError when the run is somebody else's by now

_owned: list[
    tuple[str, PurePath, Confirm]
] = []  # store, folder and what to ask, the latest last; few at a time


@contextmanager
def owning(folder: Place, confirm: Confirm) -> Iterator[None]:
    """While the block runs, `confirm` is asked before every write below `folder`."""
    entry = (*_address(folder), confirm)
    _owned.append(entry)
    try:
        yield
    finally:
        _owned.remove(entry)


def ask(path: Place) -> None:
    """Returns where nothing is owned by this process, or what is owned still is. Raises RunDirectoryError, OSError."""
    if not _owned:
        return
    store, here = _address(path)
    for where, folder, confirm in reversed(tuple(_owned)):
        if where == store and here.is_relative_to(folder):
            confirm()
            return


def _address(path: Place) -> tuple[str, PurePath]:
    if isinstance(path, Path):
        return "", Path(os.path.realpath(path))
    return f"{path.store}", path.key
