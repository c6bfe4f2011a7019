"""From hidden states at the answer position to metric values, in float64.

Knows the unembedding and the answers of a batch. Does not know which metrics exist (`pipeline.metrics`).

Matrix products stay in the model's dtype; every reduction over the vocabulary is in float64. That alone
removes nearly all of the rounding that would flip decisions of ACDC.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pipeline.engine.batch import Batch

# Logits held at once while a vocabulary metric is evaluated (float32: 64 MiB), and those of them that are
# reduced in float64 at once on a CPU: few enough to stay in its cache.
_LOGITS_AT_ONCE = 2**24
_REDUCED_AT_ONCE = 2**18

# A shortlist's tokens: the likeliest, and a sample of the others; and the vocabulary from which on it pays.
_SHORTLIST_TOP, _SHORTLIST_SAMPLE = 128, 128
_SHORTLIST_FROM = 8192


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
class Reference:
    """The clean run's distribution at the answer: probabilities and its negative entropy, float64."""

    probs: Float[Tensor, "prompt vocab"]
    negative_entropy: Float[Tensor, " prompt"]


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
        return self._finish(torch.nn.functional.linear(hidden, self.weight, self.bias))

    def logits_at(
        self, hidden: Float[Tensor, "*variant prompt d_model"], ids: Int[Tensor, "prompt answer"]
    ) -> Float[Tensor, "*variant prompt answer"]:
        """Logits of a few tokens per prompt, without the rest of the vocabulary."""
        ids = ids.clamp(min=0)
        logits = torch.einsum("...bd,bad->...ba", hidden, self.weight[ids])
        return self._finish(logits if self.bias is None else logits + self.bias[ids])

    def _finish(self, logits: Float[Tensor, "*lead"]) -> Float[Tensor, "*lead"]:
        if self.scale != 1.0:
            logits = logits * self.scale
        return logits if self.softcap is None else torch.tanh(logits / self.softcap) * self.softcap

    def reference(self, hidden: Float[Tensor, "prompt d_model"]) -> Reference:
        log_probs = self.logits(hidden.to(self.weight.device)).double().log_softmax(-1)
        probs = log_probs.exp()
        return Reference(probs, (probs * log_probs).sum(-1))


@dataclass(frozen=True)
class Answers:
    """What metrics look at: logits and probabilities of the answers for variants of a batch, computed on demand."""

    hidden: Float[Tensor, "*variant prompt d_model"]
    unembedding: Unembedding
    answers: Int[Tensor, "prompt answer"]
    wrong_answers: Int[Tensor, "prompt wrong"]
    reference: Reference | None

    @property
    def logits(self) -> Float[Tensor, "*variant prompt vocab"]:
        """All logits, computed once."""
        return self._logits

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
        parts = logits.split(max(1, at_once))
        return torch.cat([reduce(part.double()) for part in parts]).reshape(*variants, n_prompts)

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

    def highest_logit(self) -> Float[Tensor, "*variant prompt"]:
        return self._logits.amax(-1).double()

    def kl_from_reference(self) -> Float[Tensor, "*variant prompt"]:
        """KL(reference || here) = sum p log p - p . logits + logsumexp(logits), in nats."""
        if self.reference is None:
            raise ValueError("a divergence needs the clean run as reference")
        reference = self.reference

        def divergence(logits: Float[Tensor, "variant prompt vocab"]) -> Float[Tensor, "variant prompt"]:
            expected = torch.einsum("abv,bv->ab", logits, reference.probs)
            return reference.negative_entropy - expected + logits.logsumexp(-1)

        return self._reduced(divergence)


@dataclass(frozen=True)
class Shortlist:
    """Tokens that stand for the vocabulary near some hidden states: the likeliest, and a sample of the others.

    `log_weight` makes the sum of exp(logit + log_weight) an estimate of the normaliser. `expected` times a
    hidden state, plus `expected_bias`, is the mean logit under the reference, exactly.
    """

    ids: Int[Tensor, "prompt token"]
    log_weight: Float[Tensor, "prompt token"]
    expected: Float[Tensor, "prompt d_model"] | None = None
    expected_bias: Float[Tensor, " prompt"] | None = None

    @staticmethod
    def of(
        logits: Float[Tensor, "prompt vocab"], unembedding: Unembedding, reference: Reference | None
    ) -> "Shortlist":
        """The shortlist around these logits; the sample is evenly spaced in cumulated probability."""
        log_probs = logits.double().log_softmax(-1)
        top = log_probs.topk(_SHORTLIST_TOP).indices
        rest = log_probs.exp().scatter(-1, top, 0.0).cumsum(-1)
        mass = rest[:, -1:].clamp(min=1e-300)
        steps = torch.arange(_SHORTLIST_SAMPLE, device=logits.device) + 0.5
        sample = torch.searchsorted(rest, mass * steps / _SHORTLIST_SAMPLE)
        sample = sample.clamp(max=logits.shape[-1] - 1)
        weight = (mass / _SHORTLIST_SAMPLE).log() - log_probs.gather(-1, sample)
        ids = torch.cat([top, sample], -1)
        log_weight = torch.cat([torch.zeros_like(log_probs.gather(-1, top)), weight], -1)
        if reference is None:
            return Shortlist(ids, log_weight)
        probs = reference.probs.to(unembedding.weight)
        bias = unembedding.bias
        return Shortlist(
            ids,
            log_weight,
            probs @ unembedding.weight * unembedding.scale,
            None if bias is None else probs @ bias * unembedding.scale,
        )


@dataclass(frozen=True)
class Estimated(Answers):
    """As `Answers`, with what needs the whole vocabulary estimated from a shortlist."""

    near: Shortlist

    @cached_property
    def _log_normaliser(self) -> Float[Tensor, "*variant prompt"]:
        logits = self.unembedding.logits_at(self.hidden, self.near.ids)
        return (logits.double() + self.near.log_weight).logsumexp(-1)

    def kl_from_reference(self) -> Float[Tensor, "*variant prompt"]:
        near, reference = self.near, self.reference
        if reference is None or near.expected is None:
            raise ValueError("a divergence needs the clean run as reference")
        expected = (self.hidden * near.expected).sum(-1).double()
        if near.expected_bias is not None:
            expected = expected + near.expected_bias
        return reference.negative_entropy - expected + self._log_normaliser


@dataclass(frozen=True)
class Objective:
    """A metric bound to a batch: final hidden states at the answer -> one float64 value per variant and prompt.

    `sign` turns metric(ablated) - metric(unablated) into how much worse the behaviour got: -1 where higher is better.
    """

    compute: Callable[[Answers], Tensor]
    sign: int
    unembedding: Unembedding
    batch: Batch
    reference: Reference | None = None
    normalised: bool = False

    def __call__(self, hidden: Float[Tensor, "*variant prompt d_model"]) -> Float[Tensor, "*variant prompt"]:
        *variants, n_prompts, d_model = hidden.shape
        flat = hidden.reshape(-1, n_prompts, d_model).to(self.unembedding.weight.device)
        at_once = max(1, _LOGITS_AT_ONCE // (n_prompts * self.unembedding.weight.shape[0]))
        values = [self.compute(self._view(part)) for part in flat.split(at_once)]
        return torch.cat(values).reshape(*variants, n_prompts)

    def around(
        self, hidden: Float[Tensor, "prompt d_model"]
    ) -> tuple[Float[Tensor, " prompt"], "Shortlist | None"]:
        """The metric of one variant, and what `estimate` needs near it; None where estimates would save nothing."""
        view = self._view(hidden[None].to(self.unembedding.weight.device))
        values = self.compute(view)[0]
        unembedding = self.unembedding
        small = len(unembedding.weight) < _SHORTLIST_FROM
        if not self.normalised or small or unembedding.softcap is not None:
            return values, None
        return values, Shortlist.of(view.logits[0], unembedding, self.reference)

    def estimate(
        self, hidden: Float[Tensor, "variant prompt d_model"], near: "Shortlist"
    ) -> Float[Tensor, "variant prompt"]:
        """The metric from a few tokens of the vocabulary: good for guesses, never for decisions."""
        view = self._view(hidden.to(self.unembedding.weight.device))
        fields = (view.hidden, view.unembedding, view.answers, view.wrong_answers, view.reference)
        return self.compute(Estimated(*fields, near))

    def _view(self, hidden: Float[Tensor, "variant prompt d_model"]) -> Answers:
        answers, wrong = (x.to(hidden.device) for x in (self.batch.answers, self.batch.wrong_answers))
        return Answers(hidden, self.unembedding, answers, wrong, self.reference)
