"""Scores of single prompts, however many: gone through block after block, never all at once.

Knows arrays and whatever gives them. Does not know files.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

_BLOCK_BYTES = 1 << 25  # of a block, as it is read: what comes in smaller pieces is put together

Pieces = Callable[[], Iterator[np.ndarray]]


@dataclass(frozen=True)
class PromptRows:
    """The scores of `n` prompts by edge; `pieces` reads them anew each time, some prompts at a time, in order."""

    n: int
    pieces: Pieces

    def __len__(self) -> int:
        return self.n

    @staticmethod
    def of(rows: "AnyRows") -> "PromptRows":
        """Rows that are in memory, as such."""
        return rows if isinstance(rows, PromptRows) else PromptRows(len(rows), lambda: iter([rows]))

    def blocks(self) -> Iterator[Float[np.ndarray, "prompt edge"]]:
        """All of them in float64, in blocks of some prompts; a piece is never cut."""
        held: list[np.ndarray] = []
        for piece in self.pieces():
            held.append(piece)
            if sum(one.nbytes for one in held) >= _BLOCK_BYTES:
                yield _together(held)
                held = []
        if held:
            yield _together(held)


AnyRows = PromptRows | Float[np.ndarray, "prompt edge"]


def _together(pieces: list[np.ndarray]) -> Float[np.ndarray, "prompt edge"]:
    rows = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
    return np.asarray(rows, dtype=np.float64)
