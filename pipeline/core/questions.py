"""What the search for a circuit asks of those who hold the prompts, as plain picklable values.

Knows receivers, senders and states by number. Does not know who answers: one process, or many in lock-step.

A *state* is a set of receivers whose edges are decided; number 0 is the clean run. It never changes: settling
a receiver makes a new one. Between two of them every question is about one receiver, with some of its senders
removed, so that the answer to a question depends on its state and itself alone.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Measure:
    """The metric with edges into `receiver` removed, for a chain of candidates.

    Variant i has removed `removed`, those earlier candidates that are not in `spared`, and candidate i; in that
    order, one after the other.
    """

    state: int
    receiver: int
    removed: tuple[int, ...]
    candidates: tuple[int, ...]
    spared: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Settle:
    """Makes state `into` of `state`: `receiver` reads `kept` and nothing else; `removed` went in this order."""

    state: int
    into: int
    receiver: int
    removed: tuple[int, ...]
    kept: tuple[int, ...]


@dataclass(frozen=True)
class Forget:
    """States that nobody will ask about again."""

    states: tuple[int, ...]


Question = Measure | Settle | Forget
