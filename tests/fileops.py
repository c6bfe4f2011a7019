"""Every operation by which this process changes files below a folder, as Python itself reports it before it is done.

Knows audit events. Does not know runs, nor the code that writes. A library in C++ that writes a file is not seen while
it writes, but its file is when it gets its name.
"""

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_NAMED = {"os.rename": 1, "os.remove": 0, "os.mkdir": 0, "os.rmdir": 0, "os.truncate": 0, "os.utime": 0}


class Operation(NamedTuple):
    """What is about to be done: `open` (to write), `rename`, `remove`, `mkdir`, ..., and to which file."""

    kind: str
    path: str  # below the folder; where to, for a rename


Listener = Callable[[Operation], None]

_listeners: list[tuple[str, Listener]] = []
_is_installed = False


@contextmanager
def listening(folder: Path, listener: Listener) -> Iterator[None]:
    """Calls `listener` before every such operation of the main thread below `folder`, while the block runs."""
    global _is_installed  # noqa: PLW0603 - an audit hook stays for ever
    if not _is_installed:
        sys.addaudithook(_hear)
        _is_installed = True
    entry = (f"{folder.resolve()}/", listener)
    _listeners.append(entry)
    try:
        yield
    finally:
        _listeners.remove(entry)


def _hear(event: str, args: tuple[Any, ...]) -> None:
    if not _listeners or threading.current_thread() is not threading.main_thread():
        return
    if event == "open":
        path, _, flags = args
        if not isinstance(flags, int) or not flags & _WRITES:
            return
    elif event in _NAMED:
        path = args[_NAMED[event]]
    else:
        return
    if not isinstance(path, str | bytes | os.PathLike):
        return
    path = os.path.realpath(os.fsdecode(path))
    for folder, listener in tuple(_listeners):
        if path.startswith(folder):
            listener(Operation(event.removeprefix("os."), path.removeprefix(folder)))
