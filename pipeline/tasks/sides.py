"""Prompts for discovery and prompts held out, so that no word that decides an answer is in both.

Knows pairs. Does not know templates: a task draws a pair again until it falls on the side that is asked for. Its words
decide: those of its answers and wrong answers, and those that clean and corrupted differ in. Each word is on one side,
by its hash, and a pair is on a side if all of them are; so a pair and its exchange are on one side.
"""

import hashlib
from collections.abc import Callable
from typing import Literal

import numpy as np

from pipeline.core.errors import PromptError
from pipeline.core.prompts import PromptPair

Side = Literal["all", "discovery", "held_out"]
TRIES = 20_000  # of one prompt; with six words one in 32 falls on a side
_MOST = 6  # words that decide together


def drawn(
    write: Callable[[np.random.Generator], PromptPair],
    rng: np.random.Generator,
    side: Side,
    *,
    closed: bool,
    name: str,
) -> PromptPair:
    """The first pair that falls on the side. `closed`: answers are of a few words that both sides need (he, she), and
    the exchanged words alone decide. Raises PromptError where none does."""
    if side == "all":
        return write(rng)
    for _ in range(TRIES):
        pair = write(rng)
        if side_of(pair, closed=closed) == side:
            return pair
    raise PromptError(
        f"task {name}: this tokenizer has too few of its words to hold some of them out; leave out held_out, or give "
        "your own pairs with {name: file, path: ..., held_out_of: ...}"
    )


def side_of(pair: PromptPair, *, closed: bool = False) -> Side | None:
    """The side of all words that decide; None where they are on both."""
    sides = {_side(word) for word in deciding(pair, closed=closed)}
    return sides.pop() if len(sides) == 1 else None


def deciding(pair: PromptPair, *, closed: bool = False) -> list[str]:
    """The words that decide, each once: where they are more than six, the answers alone, or the first six."""
    answers = [] if closed else [str(word).strip() for word in (*pair.answers, *pair.wrong_answers)]
    clean, corrupted = _words(pair.clean), _words(pair.corrupted)
    pairs = zip(clean, corrupted, strict=False)
    exchanged = [word for both in pairs if both[0] != both[1] for word in both]
    every = list(dict.fromkeys([*answers, *exchanged]))
    return every if len(every) <= _MOST else (list(dict.fromkeys(answers)) or every)[:_MOST]


def _words(text: object) -> list[str]:
    words = text.split() if isinstance(text, str) else [str(token) for token in text]  # type: ignore[attr-defined]
    return [word.strip(".,:;!?\"'()[]") for word in words]


def _side(word: str) -> Side:
    return "held_out" if hashlib.sha256(word.encode()).digest()[0] % 2 else "discovery"
