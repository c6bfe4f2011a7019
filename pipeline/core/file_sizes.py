"""How much a file may claim to hold, beside its size.

Knows numbers. Does not know formats or files.

A megabyte of repetitions can stand for a terabyte: what a file says of itself is asked before any of it is decoded.
"""

from collections.abc import Mapping

HARMLESS = 1 << 22  # rows or bytes that any machine can hold
MOST_PER_BYTE = 200  # of a file; tables of scores have a few bytes for every row


def too_much(claims: Mapping[str, int], size: int) -> str | None:
    """Which of `claims` ({"rows": 10**12}) no honest file of `size` bytes makes, in words, or None."""
    for what, claimed in claims.items():
        if claimed > HARMLESS and claimed > MOST_PER_BYTE * size:
            return f"it claims {claimed:,} {what} and is {size:,} bytes itself"
    return None
