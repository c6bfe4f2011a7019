"""Divergences that are reduced a block of the vocabulary at a time, against the definition in float64."""

import pytest
import torch

from pipeline.engine import readout
from pipeline.engine.readout import Answers, Unembedding


@pytest.mark.parametrize("block", [1, 7, 49, 1000])
@pytest.mark.parametrize("softcap", [None, 3.0])
def test_a_divergence_is_the_same_whatever_is_reduced_at_once(
    block: int, softcap: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readout, "_BLOCK", block)
    torch.manual_seed(0)
    unembedding = Unembedding(
        torch.randn(50, 8).double(), 3 * torch.randn(50).double(), scale=1.5, softcap=softcap
    )
    clean, hidden = torch.randn(3, 8).double(), 4 * torch.randn(5, 3, 8).double()
    none = torch.zeros(3, 1, dtype=torch.long)
    view = Answers(hidden, unembedding, none, none, unembedding.reference(clean))
    p, q = (unembedding.logits(x).log_softmax(-1) for x in (clean, hidden))
    by_hand = (p.exp() * (p - q)).sum(-1)
    torch.testing.assert_close(view.kl_from_reference(), by_hand, rtol=1e-12, atol=1e-12)


def test_a_divergence_has_a_gradient() -> None:
    torch.manual_seed(0)
    unembedding = Unembedding(torch.randn(50, 8).double(), None)
    clean, hidden = torch.randn(3, 8).double(), torch.randn(1, 3, 8).double().requires_grad_()
    none = torch.zeros(3, 1, dtype=torch.long)
    view = Answers(hidden, unembedding, none, none, unembedding.reference(clean))
    view.kl_from_reference().sum().backward()
    p, q = (unembedding.logits(x.detach()).softmax(-1) for x in (clean, hidden))
    assert hidden.grad is not None
    torch.testing.assert_close(hidden.grad, (q - p) @ unembedding.weight)


def _in_single_precision(size: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Divergences after changes of this size: from float32 by changes and by logits, and in float64 of the same."""
    torch.manual_seed(0)
    weight, clean = torch.randn(3000, 64), torch.randn(2, 64)
    hidden = clean + size * torch.randn(6, 2, 64)
    none = torch.zeros(2, 1, dtype=torch.long)
    unembedding, exact = Unembedding(weight, None), Unembedding(weight.double(), None)
    reference = unembedding.reference(clean)
    view = Answers(hidden, unembedding, none, none, reference)
    by_logits = view._by_logits(reference, hidden)
    p, q = (exact.logits(x.double()).log_softmax(-1) for x in (clean, hidden))
    return view.kl_from_reference(), by_logits, (p.exp() * (p - q)).sum(-1)


@pytest.mark.parametrize("size", [1e-3, 1e-2, 1e-1, 1.0])
def test_a_divergence_in_single_precision_is_as_exact_as_one_from_logits_reduced_in_double(
    size: float,
) -> None:
    by_change, by_logits, exact = _in_single_precision(size)
    error, allowed = ((found - exact).abs().max() for found in (by_change, by_logits))
    assert error <= max(2 * float(allowed), 1e-7)


def test_a_divergence_is_right_where_a_token_rises_from_below_what_single_precision_holds() -> None:
    by_change, by_logits, exact = _in_single_precision(20.0)
    assert (exact > 100).any(), "a change that overflows"
    torch.testing.assert_close(by_change, exact, rtol=1e-5, atol=0)
    torch.testing.assert_close(by_change, by_logits, rtol=1e-5, atol=0)
