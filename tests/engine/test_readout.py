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
