"""What is decided at one receiver: thresholds that decide alike, what they ask next, and how an answer is read.

Knows candidates, guesses and decisions. Does not know states, nor who answers (`pipeline.methods.search`).

A delta is read from the metric of every variant, or, where bounds are enough, from bounds on it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float

from pipeline.core.questions import Measure

# Half-width of the band around a threshold, relative to max(metric, 1), in which a float32 value is not trusted.
GUARD = 1e-6


@dataclass(frozen=True)
class Rule:
    """When an edge goes: harm = sign * (metric after - before), or its size if `absolute`, below the threshold."""

    sign: int
    absolute: bool
    guard: float = GUARD

    def removes(self, delta: float, threshold: float) -> bool:
        return (abs(delta) if self.absolute else delta) < threshold

    def uncertain(self, delta: float, threshold: float, metric: float, error: float = 0.0) -> bool:
        margin = (abs(delta) if self.absolute else delta) - threshold
        return abs(margin) < error + self.band(metric)

    def band(self, metric: float) -> float:
        """How close to a threshold a delta is not trusted."""
        return self.guard * max(abs(metric), 1.0)


@dataclass
class Branch:
    """Thresholds that decide alike at one receiver, so far."""

    state: int
    thresholds: tuple[float, ...]
    rest: list[int]  # candidates in the order of their tests
    before: Float[np.ndarray, " prompt"]  # the metric with what is removed so far
    senders: list[int] = field(default_factory=list)
    kept: list[bool] = field(default_factory=list)
    steps: list[Float[np.ndarray, " prompt"]] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)
    guarded: int = 0
    hints: dict[int, float] = field(default_factory=dict)  # sender -> its delta in a slightly different state
    reach: int = 1  # candidates without a hint in the next chain; kept edges come in clusters, so it adapts

    def take(
        self,
        sender: int,
        values: Float[np.ndarray, " prompt"],
        step: Float[np.ndarray, " prompt"],
        *,
        kept: bool,
        guarded: bool,
        error: float,
    ) -> None:
        """Decides the next candidate; `values` are the metric without it, `step` the harm of that, whose mean is off by
        `error` at most."""
        assert self.rest[0] == sender, "candidates are decided in order"
        del self.rest[0]
        self.senders.append(sender)
        self.kept.append(kept)
        self.steps.append(step)
        self.errors.append(error)
        self.guarded += guarded
        self.before = self.before if kept else values

    def forked(self, thresholds: Sequence[float]) -> "Branch":
        return replace(
            self,
            thresholds=tuple(thresholds),
            rest=list(self.rest),
            senders=list(self.senders),
            kept=list(self.kept),
            steps=list(self.steps),
            errors=list(self.errors),
            hints=dict(self.hints),
        )

    @property
    def removed(self) -> tuple[int, ...]:
        return tuple(s for s, kept in zip(self.senders, self.kept, strict=True) if not kept)

    def chain(self, receiver: int, width: int, rule: Rule) -> Measure:
        """The next candidates, at most `width`, and those of them that are guessed to stay."""
        middle = self.thresholds[len(self.thresholds) // 2]
        chain, spared, unknown = [], set(), 0
        for sender in self.rest[:width]:
            hint = self.hints.get(sender)
            unknown += hint is None
            if unknown > self.reach:
                break
            chain.append(sender)
            if hint is not None and not rule.removes(hint, middle):
                spared.add(sender)
        return Measure(self.state, receiver, self.removed, tuple(chain), frozenset(spared))


@dataclass(frozen=True)
class Told:
    """What an answer says of every candidate of a chain, where those before it are decided as guessed.

    The metric before and after its removal, the harm of that, and how far off the harm's mean is at most.
    """

    befores: Float[np.ndarray, "variant prompt"]
    values: Float[np.ndarray, "variant prompt"]
    steps: Float[np.ndarray, "variant prompt"]
    errors: list[float]

    @staticmethod
    def measured(
        before: Float[np.ndarray, " prompt"],
        chain: Measure,
        values: Float[np.ndarray, "variant prompt"],
        sign: int,
    ) -> "Told":
        """By the metric of every variant."""
        befores = []
        for sender, after in zip(chain.candidates, values, strict=True):
            befores.append(before)
            before = before if sender in chain.spared else after
        with np.errstate(invalid="ignore"):  # whoever reads it says so
            steps = np.ascontiguousarray((values - befores) * sign)
        return Told(np.stack(befores), values, steps, [0.0] * len(values))

    @staticmethod
    def bounded(
        before: Float[np.ndarray, " prompt"],
        chain: Measure,
        answer: Float[np.ndarray, "two variant prompt"],
        sign: int,
    ) -> "Told":
        """By what every candidate changes the metric by, and how far from that the truth is at most."""
        befores, afters = [], []
        with np.errstate(invalid="ignore"):
            for sender, step in zip(chain.candidates, answer[0], strict=True):
                befores.append(before)
                afters.append(before + step)
                before = before if sender in chain.spared else afters[-1]
        errors = answer[1].mean(axis=1).tolist()
        return Told(np.stack(befores), np.stack(afters), answer[0] * sign, errors)
