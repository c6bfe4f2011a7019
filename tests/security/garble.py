"""Seeded ways to make a good config, prompt file or model folder bad, each a value that somebody might really have.

Knows plain data and bytes. Does not know what is refused, nor by whom.
"""

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

VALUES: list[Any] = [
    None,
    True,
    -1,
    0,
    1.5,
    float("nan"),
    float("inf"),
    10**400,
    2**63,
    "",
    " ",
    "x",
    "../../outside",
    "é\u202e",
    "a\nb",
    "\x1b[2J",
    "9" * 5000,
    "1e999",
    "None",
    "nan",
    [],
    [[]],
    [None],
    ["a", 1],
    {},
    {"name": {}},
    {"": 1},
    [1] * 2000,
]


def paths(value: Any, here: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where the values of plain data stand, containers included, but for the whole."""
    if here:
        yield here
    for key, inner in (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    ):
        yield from paths(inner, (*here, key))


def edited(value: Any, rng: random.Random) -> Any:
    """A copy in which one value is replaced by an unlikely one, taken away, given twice or misspelt."""
    whole = copy.deepcopy(value)
    *parents, last = rng.choice(list(paths(whole)))
    holder = whole
    for key in parents:
        holder = holder[key]
    how = rng.choice(["replace", "replace", "replace", "remove", "misspell"])
    if how == "replace":
        holder[last] = rng.choice(VALUES)
    elif how == "remove" or isinstance(holder, list):
        del holder[last]
    else:
        at = rng.randrange(len(last))
        holder[last[:at] + rng.choice("xX_ .") + last[at + 1 :]] = holder.pop(last)
    return whole


def garbled(content: bytes, rng: random.Random) -> bytes:
    """Bytes that are cut, flipped, doubled, written in another encoding, or of another kind."""
    at = rng.randrange(1, len(content))
    return rng.choice(
        [
            lambda: content[:at],
            lambda: content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :],
            lambda: content[:at] + rng.randbytes(20) + content[at:],
            lambda: content[:at] + content[:at],
            lambda: content[at:] + content[:at],
            lambda: content.decode("latin-1").encode("utf-16"),
            lambda: content[:at] + b"\0" + content[at:],
            lambda: rng.randbytes(200),
            lambda: b"",
            lambda: b"\x1f\x8b\x08\x00" + content,
            lambda: b"PK\x03\x04" + content,
            lambda: b"PAR1" + content + b"PAR1",
            lambda: b"<html>" + content,
        ]
    )()


def write_json(path: Path, value: Any) -> None:
    """As Python writes it, with NaN and numbers of any length."""
    path.write_text(json.dumps(value))
