"""What the search for a circuit asks of those who hold the prompts, and what it decides, as plain values.

Knows receivers, senders and states by number. Does not know who answers: one process, or many in lock-step.

A *state* is a set of receivers whose edges are decided; number 0 is the clean run. It never changes: settling
a receiver makes a new one. Between two of them every question is about one receiver, with some of its senders
removed, so that the answer to a question depends on its state and itself alone.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal


@dataclass(frozen=True)
class Clean:
    """The metric of the clean run, one variant."""

    per: ClassVar[Literal["prompt"]] = "prompt"


@dataclass(frozen=True)
class Measure:
    """The metric with edges into `receiver` removed, for a chain of candidates.

    Variant i has removed `removed`, those earlier candidates that are not in `spared`, and candidate i; in that
    order, one after the other. Without candidates: one variant, in which `removed` are gone.
    """

    per: ClassVar[Literal["prompt"]] = "prompt"

    state: int
    receiver: int
    removed: tuple[int, ...]
    candidates: tuple[int, ...]
    spared: frozenset[int] = frozenset()

    @property
    def n_variants(self) -> int:
        return max(1, len(self.candidates))


@dataclass(frozen=True)
class Bound:
    """What each candidate of a chain changes a divergence by, as far as `thresholds` want to know it.

    The answer is [2, variant, prompt]: a middle, and how far from it the truth is at most, 0 where it is exact. It is
    exact where bounds leave open on which side of a threshold the mean over the prompts at hand is, or whether it is
    within `guard` of it, and where it is above all of them.
    """

    per: ClassVar[Literal["prompt"]] = "prompt"

    chain: Measure
    thresholds: tuple[float, ...]
    guard: float

    @property
    def n_variants(self) -> int:
        return self.chain.n_variants


@dataclass(frozen=True)
class Value:
    """The metric in a state, one variant."""

    per: ClassVar[Literal["prompt"]] = "prompt"

    state: int


@dataclass(frozen=True)
class Settle:
    """Makes state `into` of `state`: `receiver` reads `kept` and nothing else; `removed` went in this order."""

    per: ClassVar[None] = None

    state: int
    into: int
    receiver: int
    removed: tuple[int, ...]
    kept: tuple[int, ...]


@dataclass(frozen=True)
class Forget:
    """States that nobody will ask about again."""

    per: ClassVar[None] = None

    states: tuple[int, ...]


@dataclass(frozen=True)
class About:
    """What a search must know of the model: per layer whether its heads depend on each other, and whether an evaluation
    costs little beside its overhead."""

    coupled: tuple[bool, ...]
    eager: bool


Question = Clean | Value | Measure | Bound | Settle | Forget


@dataclass(frozen=True)
class Decided:
    """All decisions of one receiver, for thresholds that decided alike. Senders are in the order of their tests."""

    receiver: int
    state: int
    into: int
    thresholds: tuple[float, ...]
    senders: tuple[int, ...]
    kept: tuple[bool, ...]
    delta: tuple[float, ...]
    std: tuple[float, ...]
    values: tuple[float, ...]  # the metric in the new state, by prompt
    guarded: int
    error: tuple[float, ...] = ()  # of delta, where it may have any

    @property
    def removed(self) -> tuple[int, ...]:
        return tuple(s for s, kept in zip(self.senders, self.kept, strict=True) if not kept)

    @property
    def remaining(self) -> tuple[int, ...]:
        return tuple(s for s, kept in zip(self.senders, self.kept, strict=True) if kept)


@dataclass(frozen=True)
class Step:
    """What one receiver cost and gave: the record from which a search that was interrupted goes on."""

    receiver: int
    decided: tuple[Decided, ...]
    evaluations: int
    rounds: int

    def to_dict(self) -> dict[str, Any]:
        """Plain data, of which `from_dict` makes an equal step."""
        decided = tuple(
            {name: value for name, value in vars(one).items() if name != "error" or value}
            for one in self.decided
        )
        return {**vars(self), "decided": decided}

    @staticmethod
    def from_dict(fields: Any) -> "Step":
        """The step that plain data holds; ValueError for data of any other shape, which a file may hold."""
        try:
            return Step(
                int(fields["receiver"]),
                tuple(_decided(one) for one in fields["decided"]),
                int(fields["evaluations"]),
                int(fields["rounds"]),
            )
        except (KeyError, OverflowError, TypeError) as error:
            raise ValueError(f"no step of a search: {error!r}") from None


def _decided(fields: Any) -> Decided:
    return Decided(
        receiver=int(fields["receiver"]),
        state=int(fields["state"]),
        into=int(fields["into"]),
        thresholds=tuple(map(float, fields["thresholds"])),
        senders=tuple(map(int, fields["senders"])),
        kept=tuple(map(bool, fields["kept"])),
        delta=tuple(map(float, fields["delta"])),
        std=tuple(map(float, fields["std"])),
        values=tuple(map(float, fields["values"])),
        guarded=int(fields["guarded"]),
        error=tuple(map(float, fields.get("error", ()))),
    )
