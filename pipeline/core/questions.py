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
    order, one after the other. `ticket` names the answers for a later `Confirm`. With `exact` the values are the
    metric itself; without, they may be an estimate of it.
    """

    state: int
    receiver: int
    removed: tuple[int, ...]
    candidates: tuple[int, ...]
    spared: frozenset[int] = frozenset()
    ticket: int = 0
    exact: bool = False


@dataclass(frozen=True)
class Confirm:
    """The metric itself for some variants of an earlier `Measure`, given by (ticket, variant)."""

    variants: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Settle:
    """Makes state `into` of `state`: `receiver` reads `kept` and nothing else; `removed` went in this order.

    Answered by the metric in the new state, from an evaluation of its own.
    """

    state: int
    into: int
    receiver: int
    removed: tuple[int, ...]
    kept: tuple[int, ...]


@dataclass(frozen=True)
class Forget:
    """States that nobody will ask about again, and all tickets."""

    states: tuple[int, ...]


Question = Measure | Confirm | Settle | Forget
