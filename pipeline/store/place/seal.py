"""A file that carries the sha256 of itself: a bit that flips anywhere in it, in a value, a header or a name, shows.

Knows the mark and the hash. Does not know formats: whoever writes a file puts `UNSEALED` where its format has room
for a piece of text, after everything else that might look like it.

The hash is over all bytes of the file with the digits of the mark as zeros. It lies inside of the file because two
files are two writes, and processes are killed between them. It finds damage, not malice.
"""

import hashlib
import json
import mmap
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_DIGITS = 64
_ZEROS = b"0" * _DIGITS
_MARK = re.compile(rb"seal:([0-9a-f]{64})")
UNSEALED = f"seal:{_ZEROS.decode()}"


def sealed(content: bytes) -> bytes:
    """The content with its last `UNSEALED` filled in."""
    at = _room_in(content)
    return content[:at] + _digest(content, at) + content[at + _DIGITS :]


def seal_file(path: Path) -> None:
    """Does the same in a file that nobody reads yet."""
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as content:
        at = _room_in(content)
        content[at : at + _DIGITS] = _digest(content, at)


def sealed_json(value: Mapping[str, Any], indent: int | None = 1) -> bytes:
    """A JSON object, with its seal as the last of its keys."""
    return sealed(f"{json.dumps({**value, 'seal': UNSEALED}, indent=indent, allow_nan=False)}\n".encode())


def sealed_text(text: str, comment: str) -> bytes:
    """Text with its seal in a comment of its last line; `comment` is how the format writes one, as in `# {}`."""
    return sealed(f"{text}{comment.format(UNSEALED)}\n".encode())


def without_seal(value: Any) -> Any:
    """What was sealed, of a JSON value that was read."""
    return {key: one for key, one in value.items() if key != "seal"} if isinstance(value, dict) else value


def has_seal(content: bytes) -> bool:
    """Whether a JSON object was written with a seal, be it a broken one: one flipped bit leaves the key or the mark."""
    return b'"seal": "' in content or _MARK.search(content) is not None


def is_whole(content: bytes | mmap.mmap) -> bool:
    """Whether this was sealed and is what it was then, bit for bit."""
    at = _digits_of(content)
    return at is not None and content[at : at + _DIGITS] == _digest(content, at)


def is_whole_file(path: Path) -> bool:
    """The same of a file, however large."""
    with path.open("rb") as file:
        if not file.seek(0, 2):
            return False
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return is_whole(content)


def is_mark(text: str) -> bool:
    """Whether a piece of text is a mark, filled in or not."""
    return _MARK.fullmatch(text.encode()) is not None


def _digits_of(content: Any) -> int | None:
    """Where the digits of the last mark begin."""
    starts = [mark.start(1) for mark in _MARK.finditer(content)]
    return starts[-1] if starts else None


def _room_in(content: Any) -> int:
    """The same of a mark that is not filled in yet; ValueError where there is none."""
    at = _digits_of(content)
    if at is None or content[at : at + _DIGITS] != _ZEROS:
        raise ValueError("there is no room for a seal")
    return at


def _digest(content: Any, at: int) -> bytes:
    """The hash, as the digits that stand in the mark."""
    with memoryview(content) as view:
        found = hashlib.sha256(view[:at])
        found.update(_ZEROS)
        found.update(view[at + _DIGITS :])
    return found.hexdigest().encode()
