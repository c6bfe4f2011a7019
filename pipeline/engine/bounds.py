"""How much a divergence changes at most and at least, from a part of the vocabulary.

Knows final hidden states, the unembedding and one exact product with it nearby. Does not know edges, nor what a
threshold is for.

With h the final hidden state and z = W h its logits, KL(p || softmax z) = const - (p W) . h + log sum e^z, of which the
second term costs a product of one row. The sum is split: exact over a *head* of tokens, those that are likely where
the whole product was last made and those whose rows lie far from the mean row c; over the *tail* it is known there, and
moves with the change x of h between bounds. With y = (w - c) . x for a token and E its mean over the tail, each weighed
as it was there,

    log tail after - log tail there - c . x = log E e^y,     |y| <= m = max |w - c| |x|,     E y^2 <= v
    max(-m, -sqrt v) <= log E e^y <= min(m, log(1 + sqrt v + v (e^m - 1 - m) / m^2)),

where v = min(m^2, largest share of a token x sum over the vocabulary of y^2), a quadratic form of x. The lower bound
is Jensen's; the upper one Bennett's: e^y <= 1 + y + y^2 (e^m - 1 - m) / m^2 for y <= m. A step from one state to
another is bounded in two ways, both of which hold: by these bounds on either side, and by m of the step itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.engine.host import to_host
from pipeline.engine.readout import Objective, Unembedding

# Tokens of the head: the most likely ones, and those whose rows lie farthest from the mean.
_LIKELY, _FAR = 2048, 2048
# Bounds are worth their price where the head is a small part of the vocabulary.
_WORTH = 4
# How uncertain the logarithm of the tail may get, in nats, before an open test has it made anew.
_STALE = 0.3
# Rounding of logits, in units of the largest logit's last place.
_ULPS = 8.0
# Of what is computed in float32 and must not be too small.
_SAFE = 1.0 + 1e-4
_BLOCK = 4096


@dataclass(frozen=True)
class Vocabulary:
    """Where the rows of an unembedding lie about their mean."""

    unembedding: Unembedding
    centre: Float[Tensor, " d_model"]
    distance: Float[Tensor, " vocab"]
    far: Int[Tensor, " token"]
    spread: Float[Tensor, "d_model d_model"]  # sum over tokens of (w - centre) (w - centre)^T

    @staticmethod
    @torch.no_grad()
    def of(unembedding: Unembedding) -> "Vocabulary | None":
        """None where bounds are of no use: capped logits are not linear, and a small vocabulary is cheap."""
        weight = unembedding.weight
        if unembedding.softcap is not None or len(weight) < _WORTH * (_LIKELY + _FAR):
            return None
        centre = weight.mean(0)
        distance = torch.cat([(rows - centre).norm(dim=1) for rows in weight.split(_BLOCK)])
        spread = weight.T @ weight - len(weight) * torch.outer(centre, centre)
        return Vocabulary(unembedding, centre, distance, distance.topk(_FAR).indices, spread)


@dataclass(frozen=True)
class Tail:
    """The tail of a batch where the whole product was made, and what it can be nearby."""

    vocabulary: Vocabulary
    hidden: Float[Tensor, "prompt d_model"]
    log_mass: Float[Tensor, " prompt"]
    log_peak: Float[Tensor, " prompt"]  # of the largest share that a token has of it
    reach: float  # how far its rows lie from the centre at most
    head: Unembedding

    @staticmethod
    def at(
        vocabulary: Vocabulary, hidden: Float[Tensor, "prompt d_model"], logits: Float[Tensor, "prompt vocab"]
    ) -> "Tail":
        """The tail at these hidden states; the head is that of all prompts together."""
        likely = logits.softmax(-1).mean(0).index_fill_(0, vocabulary.far, -1.0)
        ids = torch.cat([vocabulary.far, likely.topk(_LIKELY).indices])
        tail = logits.double().index_fill_(1, ids, -torch.inf)
        log_mass = tail.logsumexp(-1)
        reach = float(vocabulary.distance.index_fill(0, ids, 0.0).amax()) * _SAFE
        whole = vocabulary.unembedding
        bias = None if whole.bias is None else whole.bias[ids]
        head = Unembedding(whole.weight[ids], bias, whole.scale)
        return Tail(vocabulary, hidden, log_mass, tail.amax(-1) - log_mass, reach, head)

    def sums(
        self, hidden: Float[Tensor, "variant prompt d_model"]
    ) -> tuple[Float[Tensor, "variant prompt"], ...]:
        """log-sum-exp over the head, the least and the most that of the tail can be, and how large logits are."""
        logits = self.head.logits(hidden)
        size = logits.abs().amax(-1).double()
        x = (hidden - self.hidden) * self.vocabulary.unembedding.scale
        at_most = self.reach * x.norm(dim=-1).double()
        squares = torch.einsum("...d,de,...e->...", x, self.vocabulary.spread, x).clamp(min=0.0).double()
        v = torch.minimum(self.log_peak.exp() * squares * _SAFE, at_most.square())
        m = at_most.clamp(1e-3, 30.0)
        bennett = torch.log1p(v.sqrt() + v * (m.exp() - 1.0 - m) / m.square())
        high = torch.where(at_most < 30.0, torch.minimum(at_most, bennett), at_most)
        low = torch.maximum(-at_most, -v.sqrt())
        there = self.log_mass + (x @ self.vocabulary.centre).double()
        return logits.double().logsumexp(-1), there + low, there + high, size

    def moved(
        self, change: Float[Tensor, "variant prompt d_model"]
    ) -> tuple[Float[Tensor, "variant prompt"], Float[Tensor, "variant prompt"]]:
        """What a step adds to the logarithm of any tail of these tokens, and how far from that it can be."""
        x = change * self.vocabulary.unembedding.scale
        return (x @ self.vocabulary.centre).double(), self.reach * x.norm(dim=-1).double()


@dataclass(frozen=True)
class Steps:
    """What steps change a divergence by: a middle and how far from it the truth is at most, 0 where it is exact."""

    middle: Float[Tensor, "step prompt"]
    error: Float[Tensor, "step prompt"]

    def undecided(self, thresholds: Sequence[float], guard: float) -> list[bool]:
        """The steps whose mean may be on either side of a threshold, or within `guard` of it; and those above all
        thresholds, which are few and are what a reader looks at, unless they are exact."""
        middle, error = self.middle.mean(-1), self.error.mean(-1)
        low, high = middle - error - guard, middle + error + guard
        sure = torch.stack([(high < t) | (low > t) for t in thresholds]).all(0)
        return to_host(~sure | ((low > max(thresholds)) & (error > 0.0))).tolist()


class DivergenceSteps:
    """Steps of the divergence of one batch."""

    def __init__(self, objective: Objective, vocabulary: Vocabulary | None) -> None:
        self._objective = objective
        self._vocabulary = vocabulary if objective.batch.n_reads == 1 else None
        reference = objective.reference
        if self._vocabulary is None or reference is None:
            return
        # p W, what p . logits is linear in
        self._expected = reference.mean_row * self._vocabulary.unembedding.scale

    @torch.no_grad()
    def bounded(
        self,
        hidden: Float[Tensor, "variant prompt *read d_model"],
        ends: Sequence[tuple[int, int]],
        thresholds: Sequence[float],
        guard: float,
        tail: Tail | None,
    ) -> Steps:
        """The steps from one variant to another, exact where bounds leave open on which side of a threshold their mean
        is. `tail` is one nearby, where there are bounds; one that is too far is made anew at the first variant, so that
        an answer depends on what is asked alone."""
        hidden = hidden.to(self._objective.unembedding.weight.device)
        before, after = (list(side) for side in zip(*ends, strict=True))
        if tail is None:
            values = self._objective(hidden)
            exact = values[after] - values[before]
            return Steps(exact, torch.zeros_like(exact))
        steps, stale = self._between(tail, hidden, before, after)
        undecided = steps.undecided(thresholds, guard)
        if any(undecided) and float(to_host(stale)) > _STALE:
            steps, _ = self._between(self._whole(hidden[:1])[1], hidden, before, after)
            undecided = steps.undecided(thresholds, guard)
        open_ = [index for index, one in enumerate(undecided) if one]
        if open_:
            rows = sorted({end for index in open_ for end in ends[index]})
            values = self._objective(hidden[rows])
            for index in open_:
                first, last = (rows.index(end) for end in ends[index])
                steps.middle[index], steps.error[index] = values[last] - values[first], 0.0
        return steps

    @torch.no_grad()
    def tail(self, hidden: Float[Tensor, "prompt *read d_model"]) -> Tail | None:
        """The tail at these final hidden states; None where bounds are of no use."""
        if self._vocabulary is None:
            return None
        return self._whole(hidden[None].to(self._objective.unembedding.weight.device))[1]

    def _whole(
        self, hidden: Float[Tensor, "variant prompt d_model"]
    ) -> tuple[Float[Tensor, "variant prompt"], Tail]:
        """Exact values, and the tail at the last of them."""
        values, logits = self._objective.with_logits(hidden)
        assert self._vocabulary is not None, "there are bounds"
        return values, Tail.at(self._vocabulary, hidden[-1], logits)

    def _between(
        self,
        tail: Tail,
        hidden: Float[Tensor, "variant prompt d_model"],
        before: Sequence[int],
        after: Sequence[int],
    ) -> tuple[Steps, Float[Tensor, ""]]:
        """Bounds on the steps, and how uncertain the tail is where they begin."""
        head, low, high, size = tail.sums(hidden)
        change = hidden[after] - hidden[before]
        linear = -(change.double() * self._expected).sum(-1)
        by, reach = tail.moved(change)
        start, end = head[before], head[after]
        low_start, high_start = low[before], high[before]
        least = torch.logaddexp(end, low[after]) - torch.logaddexp(start, high_start)
        most = torch.logaddexp(end, high[after]) - torch.logaddexp(start, low_start)
        # the same tail on both sides: monotone in it, so that one of its ends is the extreme
        sides = [
            [
                torch.logaddexp(end, there + by + sign * reach) - torch.logaddexp(start, there)
                for there in (low_start, high_start)
            ]
            for sign in (-1, 1)
        ]
        least = torch.maximum(least, torch.minimum(*sides[0]))
        most = torch.minimum(most, torch.maximum(*sides[1]))
        rounding = _ULPS * torch.finfo(hidden.dtype).eps * torch.maximum(size[before], size[after])
        steps = Steps(linear + (least + most) / 2, (most - least).clamp(min=0.0) / 2 + rounding)
        return steps, (high - low)[0].amax()
