"""From hidden states at the answer position to metric values, in float64.

Knows the unembedding and the answers of a batch. Does not know which metrics exist (`pipeline.metrics`).

Matrix products stay in the model's dtype; reductions over the vocabulary are in float64, or of what changes, which
rounds less. That alone removes nearly all of the rounding that would flip decisions of ACDC.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pipeline.engine.batch import Batch
from pipeline.engine.products import linear

# Logits held at once while a vocabulary metric is evaluated (float32: 64 MiB), and those of them that are
# reduced in float64 at once on a CPU: few enough to stay in its cache.
_LOGITS_AT_ONCE = 2**24
_REDUCED_AT_ONCE = 2**18
# Tokens whose logits are made and reduced at once where they are needed for nothing else: the logits of all rows of
# a block stay in the cache, and those of the whole vocabulary are never there.
_BLOCK = 1024


@dataclass(frozen=True)
class Ragged:
    """Values per answer, some of them padding; reductions leave the padding out."""

    values: Float[Tensor, "*variant prompt answer"]
    valid: Bool[Tensor, "prompt answer"]

    def mean(self) -> Float[Tensor, "*variant prompt"]:
        return self.sum() / self.valid.sum(-1)

    def sum(self) -> Float[Tensor, "*variant prompt"]:
        return self.values.masked_fill(~self.valid, 0.0).sum(-1)

    def max(self) -> Float[Tensor, "*variant prompt"]:
        return self.values.masked_fill(~self.valid, -torch.inf).amax(-1)

    def logsumexp(self) -> Float[Tensor, "*variant prompt"]:
        return self.values.masked_fill(~self.valid, -torch.inf).logsumexp(-1)

    def exp(self) -> "Ragged":
        return Ragged(self.values.exp(), self.valid)


@dataclass(frozen=True)
class Unembedding:
    """The map from final hidden states to logits: a product, and what some families do to it."""

    weight: Float[Tensor, "vocab d_model"]
    bias: Float[Tensor, " vocab"] | None
    scale: float = 1.0
    softcap: float | None = None

    def logits(
        self, hidden: Float[Tensor, "*variant prompt d_model"]
    ) -> Float[Tensor, "*variant prompt vocab"]:
        return self._finish(linear(hidden, self.weight, self.bias))

    def logits_at(
        self, hidden: Float[Tensor, "*variant prompt d_model"], ids: Int[Tensor, "prompt answer"]
    ) -> Float[Tensor, "*variant prompt answer"]:
        """Logits of a few tokens per prompt, without the rest of the vocabulary."""
        ids = ids.clamp(min=0)
        logits = torch.einsum("...bd,bad->...ba", hidden, self.weight[ids])
        return self._finish(logits if self.bias is None else logits + self.bias[ids])

    def block(self, hidden: Float[Tensor, "row d_model"], tokens: slice) -> Float[Tensor, "row token"]:
        """Logits of some tokens that follow each other."""
        bias = None if self.bias is None else self.bias[tokens]
        return self._finish(linear(hidden, self.weight[tokens], bias))

    def _finish(self, logits: Float[Tensor, "*lead"]) -> Float[Tensor, "*lead"]:
        if self.scale != 1.0:
            logits = logits * self.scale
        return logits if self.softcap is None else torch.tanh(logits / self.softcap) * self.softcap

    def reference(self, hidden: Float[Tensor, "prompt *read d_model"]) -> "Reference":
        hidden = hidden.to(self.weight.device)
        log_probs = self.logits(hidden).double().log_softmax(-1)
        probs = log_probs.exp()
        return Reference(self, hidden, probs, (probs * log_probs).sum(-1))


@dataclass(frozen=True)
class Reference:
    """The clean run where answers are read: its hidden states, their distribution and its negative entropy, float64."""

    unembedding: Unembedding
    hidden: Float[Tensor, "*read d_model"]
    probs: Float[Tensor, "*read vocab"]
    negative_entropy: Float[Tensor, "*read"]

    @cached_property
    def mean_row(self) -> Float[Tensor, "*read d_model"]:
        """The mean of the unembedding's rows over the distribution, float64."""
        probs, weight = self.probs.flatten(0, -2), self.unembedding.weight
        parts = zip(probs.split(_BLOCK, dim=1), weight.split(_BLOCK), strict=True)
        total = torch.stack([p @ rows.double() for p, rows in parts]).sum(0)
        return total.view(self.hidden.shape)

    def divergence(self, logits: Float[Tensor, "variant prompt vocab"]) -> Float[Tensor, "variant prompt"]:
        """sum p log p - p . logits + logsumexp(logits), of float64 logits."""
        by_prompt, probs = logits.transpose(0, 1), self.probs[..., None]
        rest = torch.baddbmm(self.negative_entropy[:, None, None], by_prompt, probs, alpha=-1)
        return rest[..., 0].t() + logits.logsumexp(-1)

    @cached_property
    def by_place(self) -> "Reference":
        """The same with all places that are read one after the other."""
        probs = self.probs.flatten(0, -2)
        return Reference(self.unembedding, self.hidden.flatten(0, -2), probs, self.negative_entropy.flatten())


@dataclass(frozen=True)
class Answers:
    """What metrics look at: logits and probabilities of the answers for variants of a batch, computed on demand."""

    hidden: Float[Tensor, "*variant prompt d_model"]
    unembedding: Unembedding
    answers: Int[Tensor, "prompt answer"]
    wrong_answers: Int[Tensor, "prompt wrong"]
    reference: Reference | None

    @cached_property
    def _logits(self) -> Float[Tensor, "*variant prompt vocab"]:
        return self.unembedding.logits(self.hidden)

    @cached_property
    def _log_normaliser(self) -> Float[Tensor, "*variant prompt"]:
        return self._reduced(lambda logits: logits.logsumexp(-1))

    def _reduced(self, reduce: Callable[[Tensor], Tensor]) -> Float[Tensor, "*variant prompt"]:
        """A reduction over the vocabulary of float64 logits of whole variants, a few at a time."""
        logits = self._logits
        *variants, n_prompts, vocab = logits.shape
        logits = logits.reshape(-1, n_prompts, vocab)
        at_once = -(-_REDUCED_AT_ONCE // (n_prompts * vocab)) if logits.device.type == "cpu" else len(logits)
        parts = [reduce(part.double()) for part in logits.split(max(1, at_once))]
        return (parts[0] if len(parts) == 1 else torch.cat(parts)).reshape(*variants, n_prompts)

    def _at(self, ids: Int[Tensor, "prompt answer"]) -> Ragged:
        if "_logits" in self.__dict__:  # one product for all of the vocabulary is there already
            index = ids.clamp(min=0).expand(*self._logits.shape[:-1], ids.shape[-1])
            return Ragged(self._logits.gather(-1, index).double(), ids >= 0)
        return Ragged(self.unembedding.logits_at(self.hidden, ids).double(), ids >= 0)

    @property
    def has_wrong(self) -> Bool[Tensor, " prompt"]:
        return (self.wrong_answers >= 0).any(-1)

    @property
    def right_logits(self) -> Ragged:
        return self._at(self.answers)

    @property
    def wrong_logits(self) -> Ragged:
        return self._at(self.wrong_answers)

    @property
    def right_log_probs(self) -> Ragged:
        normaliser = self._log_normaliser[..., None]
        return Ragged(self._at(self.answers).values - normaliser, self.answers >= 0)

    @property
    def wrong_log_probs(self) -> Ragged:
        normaliser = self._log_normaliser[..., None]
        return Ragged(self._at(self.wrong_answers).values - normaliser, self.wrong_answers >= 0)

    def is_said(self) -> Bool[Tensor, "*variant prompt"]:
        """Whether an answer is above every other token."""
        highest = self._logits.amax(-1).double()  # before the answers, which are read from the same product
        return self.right_logits.max() >= highest

    def kl_from_reference(self) -> Float[Tensor, "*variant prompt"]:
        """KL(reference || here) = sum p log p - p . logits + logsumexp(logits), in nats."""
        if self.reference is None:
            raise ValueError("a divergence needs the clean run as reference")
        reference = self.reference
        if self._may_stream:
            return self._streamed(reference)

        return self._reduced(reference.divergence)

    @property
    def _may_stream(self) -> bool:
        """Whether there are many logits, and nobody else wants them: neither another reduction nor a gradient."""
        wanted = "_logits" in self.__dict__ or (torch.is_grad_enabled() and self.hidden.requires_grad)
        many = len(self.unembedding.weight) > _BLOCK
        return many and self.hidden.device.type == "cpu" and not wanted

    def _streamed(self, reference: Reference) -> Float[Tensor, "*variant prompt"]:
        """The divergence, a block of the vocabulary at a time."""
        hidden = self.hidden.flatten(0, -3) if self.hidden.ndim > 2 else self.hidden[None]
        plain = self.unembedding.softcap is None and hidden.dtype in (torch.float32, torch.float64)
        if not plain:
            return self._by_logits(reference, hidden).view(self.hidden.shape[:-1])
        found, sure = self._by_change(reference, hidden)
        if not bool(sure.all()):
            found[~sure] = self._by_logits(reference, hidden[~sure])
        return found.view(self.hidden.shape[:-1])

    def _by_change(
        self, reference: Reference, hidden: Float[Tensor, "variant prompt d_model"]
    ) -> tuple[Float[Tensor, "variant prompt"], Bool[Tensor, " variant"]]:
        """log sum p e^y, with y what a logit changes by less the mean of that over p; and where that holds.

        It is log1p of the sum of p (e^y - 1), which is never negative; what is rounded is the change alone, and less
        than logits are by their product. Where a token may have risen from below what the dtype holds, it does not.
        """
        rows = (hidden - reference.hidden).flatten(0, 1)
        if self.unembedding.scale != 1.0:
            rows = rows * self.unembedding.scale
        mean = (rows.view(hidden.shape).double() * reference.mean_row).sum(-1)
        shift = mean.to(rows.dtype)
        most, total = rows.new_full((len(rows),), -torch.inf), torch.zeros_like(mean)
        for start in range(0, reference.probs.shape[-1], _BLOCK):
            tokens = slice(start, start + _BLOCK)
            y = linear(rows, self.unembedding.weight[tokens]).sub_(shift.view(-1, 1))
            most = torch.maximum(most, y.amax(-1))
            grown = y.exp_().sub_(1.0).view(*hidden.shape[:2], -1)
            total += torch.linalg.vecdot(grown, reference.probs[:, tokens].to(y.dtype))
        sure = ~(most > _highest(rows.dtype)).view(mean.shape).any(-1)
        return total.log1p() + (shift.double() - mean), sure

    def _by_logits(
        self, reference: Reference, hidden: Float[Tensor, "variant prompt d_model"]
    ) -> Float[Tensor, "variant prompt"]:
        """logsumexp(logits) and p . logits, every reduction in float64."""
        rows, probs = hidden.flatten(0, 1), reference.probs
        top = rows.new_full((len(rows), 1), -torch.inf, dtype=torch.float64)
        mass, expected = torch.zeros_like(top), top.new_zeros(hidden.shape[:2])
        for start in range(0, probs.shape[-1], _BLOCK):
            tokens = slice(start, start + _BLOCK)
            logits = self.unembedding.block(rows, tokens)
            wide = logits.double()
            expected += torch.einsum("abv,bv->ab", wide.view(*hidden.shape[:2], -1), probs[:, tokens])
            above = torch.maximum(top, logits.amax(-1, keepdim=True).double())
            mass = mass * (top - above).exp() + (wide - above).exp_().sum(-1, keepdim=True)
            top = above
        return reference.negative_entropy - expected + (top + mass.log()).view(expected.shape)


def _highest(dtype: torch.dtype) -> float:
    """The change of a logit up to which a token with less probability than the dtype holds stays negligible: e^37 such
    tokens make up a rounding error."""
    return -math.log(torch.finfo(dtype).tiny) - 37.0


@dataclass(frozen=True)
class SequenceAnswers:
    """The same of answers of several tokens, which are read one after the other: an answer counts by its log
    probability, the sum of those of its tokens, each given the ones before it. That is what its logit is in a
    difference of logits, where normalisers cancel.

    A divergence is the sum of those where tokens of right answers are read, each place once.
    """

    hidden: Float[Tensor, "variant prompt read d_model"]
    unembedding: Unembedding
    answers: Int[Tensor, "prompt answer token two"]
    wrong_answers: Int[Tensor, "prompt wrong step two"]
    reference: Reference | None

    @cached_property
    def _places(self) -> Answers:
        """Every place that is read as if it were a prompt."""
        n_places = self.hidden.shape[1] * self.hidden.shape[2]
        none = torch.full((n_places, 1), -1, device=self.hidden.device)
        reference = None if self.reference is None else self.reference.by_place
        return Answers(self.hidden.flatten(1, 2), self.unembedding, none, none, reference)

    def _by_token(
        self, tokens: Int[Tensor, "prompt answer token two"]
    ) -> tuple[Int[Tensor, "prompt answer token"], Int[Tensor, "prompt answer token"], Tensor]:
        """Among all places the one of each token, the token, and whether it is there."""
        places, ids = tokens.unbind(-1)
        first = torch.arange(len(tokens), device=tokens.device)[:, None, None] * self.hidden.shape[2]
        return first + places.clamp(min=0), ids.clamp(min=0), ids >= 0

    def _log_probs(self, tokens: Int[Tensor, "prompt answer token two"]) -> Ragged:
        places, ids, there = self._by_token(tokens)
        each = self._places._logits[:, places, ids].double() - self._places._log_normaliser[:, places]  # noqa: SLF001
        return Ragged(each.masked_fill(~there, 0.0).sum(-1), there.any(-1))

    @property
    def has_wrong(self) -> Bool[Tensor, " prompt"]:
        return (self.wrong_answers[..., 0, 1] >= 0).any(-1)

    @property
    def right_logits(self) -> Ragged:
        return self._log_probs(self.answers)

    @property
    def wrong_logits(self) -> Ragged:
        return self._log_probs(self.wrong_answers)

    right_log_probs = right_logits
    wrong_log_probs = wrong_logits

    def is_said(self) -> Bool[Tensor, "variant prompt"]:
        """Whether every token of an answer is above every other token."""
        places, ids, there = self._by_token(self.answers)
        logits = self._places._logits  # noqa: SLF001 - a view of it
        best = logits[:, places, ids] >= logits.amax(-1)[:, places]
        return ((best | ~there).all(-1) & there.any(-1)).any(-1)

    def kl_from_reference(self) -> Float[Tensor, "variant prompt"]:
        places, _, there = self._by_token(self.answers)
        n_prompts, n_reads = self.hidden.shape[1:3]
        read = torch.zeros(n_prompts * n_reads, dtype=torch.bool, device=places.device)
        read[places[there]] = True
        each = self._places.kl_from_reference().masked_fill(~read, 0.0)
        return each.unflatten(-1, (n_prompts, n_reads)).sum(-1)


@dataclass(frozen=True)
class Objective:
    """A metric bound to a batch: final hidden states at the answer -> one float64 value per variant and prompt.

    `sign` turns metric(ablated) - metric(unablated) into how much worse the behaviour got: -1 where higher is better.
    """

    compute: Callable[[Any], Tensor]
    sign: int
    unembedding: Unembedding
    batch: Batch
    reference: Reference | None = None

    def __call__(self, hidden: Float[Tensor, "*lead d_model"]) -> Float[Tensor, "*variant_prompt"]:
        *variants, n_prompts = hidden.shape[: -1 if self.batch.n_reads == 1 else -2]
        flat = hidden.reshape(-1, *hidden.shape[len(variants) :]).to(self.unembedding.weight.device)
        n_logits = n_prompts * self.batch.n_reads * self.unembedding.weight.shape[0]
        at_once = max(1, _LOGITS_AT_ONCE // n_logits)
        values = [self.compute(self.view(part)) for part in flat.split(at_once)]
        return (values[0] if len(values) == 1 else torch.cat(values)).reshape(*variants, n_prompts)

    def with_logits(
        self, hidden: Float[Tensor, "variant prompt d_model"]
    ) -> tuple[Float[Tensor, "variant prompt"], Float[Tensor, "prompt vocab"]]:
        """Values, and the logits of the last variant, from one product."""
        n_logits = hidden.shape[1] * self.unembedding.weight.shape[0]
        values, logits = [], None
        for part in hidden.split(max(1, _LOGITS_AT_ONCE // n_logits)):
            view = self.view(part)
            assert isinstance(view, Answers), "answers of one token"
            logits = view._logits[-1]  # noqa: SLF001 - kept by the view, which the metric reads
            values.append(self.compute(view))
        assert logits is not None, "there are variants"
        return torch.cat(values), logits

    def view(self, hidden: Float[Tensor, "variant prompt *read d_model"]) -> Answers | SequenceAnswers:
        """What a metric looks at."""
        batch, device = self.batch, hidden.device
        if batch.answer_tokens is not None and batch.wrong_tokens is not None:
            right, wrong = batch.answer_tokens.to(device), batch.wrong_tokens.to(device)
            return SequenceAnswers(hidden, self.unembedding, right, wrong, self.reference)
        return Answers(
            hidden, self.unembedding, batch.answers.to(device), batch.wrong_answers.to(device), self.reference
        )
