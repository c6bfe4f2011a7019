"""What a run says of itself, kept in its directory: `log.jsonl`, a line per event, the oldest first.

Knows lines of JSON and how many are kept. Does not know what events mean. A view for people, on any machine that sees
the directory: nothing is read back by a run, and one goes on when it cannot be written. A line ends with a checksum of
itself, for the file grows and can have none.
"""

import contextlib
import json
import os
import re
import socket
import time
import zlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.core.documents import parse_json
from pipeline.core.errors import RunDirectoryError
from pipeline.store.place.atomic import write_atomic
from pipeline.store.place.objects import ObjectPath
from pipeline.store.place.where import Place, found

NAME = "log.jsonl"
MOST_BYTES = 8 * 2**20  # then the older half goes
MOST_LINES = 20_000  # of one process, in a store
PUT_SECONDS = 10.0  # between two puts there

_NO_CRC = "00000000"
_END = re.compile(r'": "[0-9a-f]{8}"}$')


class RunLog:
    """Appends to the log of the run at `path`; in a store, where nothing is appended to, to an object of its own."""

    def __init__(self, path: Place) -> None:
        self._path = path
        self._lines: list[str] = []  # in a store: all of this process
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
        self._name = f"log-{stamp}-{os.getpid()}.jsonl" if isinstance(path, ObjectPath) else NAME
        self._put = 0.0

    def write(self, kind: str, text: str, **facts: Any) -> None:
        """A line with the time and who writes it."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = _with_checksum({"time": now, "kind": kind, "text": text, **facts}) + "\n"
        with contextlib.suppress(OSError):
            if isinstance(self._path, ObjectPath):
                self._put_line(self._path / self._name, line, last=kind == "end")
            else:
                _append(self._path / self._name, line)

    def begin(self, text: str) -> None:
        """The first line of a process that owns the run."""
        self.write("session", text, host=socket.gethostname(), pid=os.getpid())

    def _put_line(self, path: ObjectPath, line: str, *, last: bool) -> None:
        self._lines = [*self._lines[-MOST_LINES:], line]
        if last or time.monotonic() - self._put > PUT_SECONDS:
            self._put = time.monotonic()
            path.write_text("".join(self._lines))


def _append(path: Path, line: str) -> None:
    if path.exists() and path.stat().st_size >= MOST_BYTES:
        kept = path.read_bytes()[-MOST_BYTES // 2 :].partition(b"\n")[2]
        write_atomic(path, kept)
    with path.open("ab+") as file:
        if file.tell() and file.seek(-1, os.SEEK_END) and file.read(1) != b"\n":  # torn by a crash
            line = f"\n{line}"
        file.write(line.encode())


def _with_checksum(event: dict[str, Any]) -> str:
    text = json.dumps({**event, "crc": _NO_CRC}, default=str)
    return f"{text[: -len(_NO_CRC) - 2]}{_crc(text)}{text[-2:]}"


def _crc(text: str) -> str:
    return f"{zlib.crc32(text.encode()):08x}"


def is_line_whole(line: str) -> bool:
    """Whether a line of a log is what was written: a flipped bit leaves the word of its checksum or the digits.

    One that a crash has torn before its checksum counts as whole, and so does one of an earlier version, which wrote
    none.
    """
    try:
        event = parse_json(line)
    except ValueError:
        return "crc" not in line[-20:] and not _END.search(line)
    if "crc" not in event and not _END.search(line):
        return True
    end = -len(_NO_CRC) - 2
    return line[end:-2] == _crc(f"{line[:end]}{_NO_CRC}{line[-2:]}")


def damaged_lines(file: Place) -> list[int]:
    """The numbers of lines of a log, from 1, that are not what was written."""
    lines = file.read_bytes().decode("utf-8", errors="replace").split("\n")
    return [number for number, line in enumerate(lines, 1) if line and not is_line_whole(line)]


def read_log(path: Place) -> list[dict[str, Any]]:
    """Every whole line, the oldest first; none where there is no log. RunDirectoryError for one far too large."""
    lines: list[dict[str, Any]] = []
    for file in sorted(found(path, "log*.jsonl"), key=str):
        if (size := file.stat().st_size) > 4 * MOST_BYTES:
            raise RunDirectoryError(f"{file}: {size:,} bytes, which no run has written; remove it")
        for line in file.read_bytes().decode("utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError):  # torn by a crash
                value = parse_json(line)
                if isinstance(value, dict):
                    lines.append({key: one for key, one in value.items() if key != "crc"})
    return lines
