"""Large products on a CPU by another kernel: the same numbers up to rounding, the same gradients, the same circuits."""

from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from pipeline import load_model
from pipeline.engine import products
from pipeline.methods import Acdc, EapIg
from pipeline.tasks import Induction

pytestmark = pytest.mark.skipif(not products._THERE, reason="this torch comes without oneDNN's product")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, ...]]]:
    """Shapes of weights of all products that go to oneDNN, which any may now."""
    shapes: list[tuple[int, ...]] = []
    product = products._product

    def noted(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        shapes.append(tuple(weight.shape))
        return product(x, weight, bias)

    monkeypatch.setattr(products, "_LEAST", 0)
    with patch.object(products, "_product", noted):
        yield shapes


@pytest.mark.parametrize("lead", [(), (5,), (3, 2, 4)])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
def test_a_product_is_that_of_torch(
    lead: tuple[int, ...], biased: bool, transposed: bool, asked: list[Any]
) -> None:
    torch.manual_seed(0)
    x, bias = torch.randn(*lead, 48), torch.randn(40) if biased else None
    weight = torch.randn(48, 40).t() if transposed else torch.randn(40, 48)
    found = products.linear(x, weight, bias)
    assert len(asked) == 1
    exact = functional.linear(x.double(), weight.double(), None if bias is None else bias.double())
    assert found.shape == exact.shape
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=48 * 6e-8 * float(exact.abs().max()))


def test_rows_of_any_layout_are_read_right(asked: list[Any]) -> None:
    torch.manual_seed(0)
    weight, base = torch.randn(40, 48), torch.randn(3, 4, 96)
    for x in (
        base[..., :48],
        base[..., :48].transpose(0, 1),
        base[:, 1:2, 48:],
        base[:1, :1, :48].expand(3, 4, -1),
    ):
        torch.testing.assert_close(products.linear(x, weight), functional.linear(x, weight))
    assert len(asked) == 4


@pytest.mark.parametrize(
    "weight",
    [torch.randn(48, 120).t()[40:80], torch.randn(40, 96)[:, :48], torch.randn(40, 48).double()],
    ids=["columns", "part of rows", "double"],
)
def test_what_the_kernel_is_slow_or_wrong_at_is_left_to_torch(weight: torch.Tensor, asked: list[Any]) -> None:
    x = torch.randn(5, 48, dtype=weight.dtype)
    assert torch.equal(products.linear(x, weight), functional.linear(x, weight))
    assert asked == []


def test_small_products_are_left_to_torch() -> None:
    x, weight = torch.randn(5, 48), torch.randn(40, 48)
    with patch.object(products, "_product", side_effect=AssertionError):
        assert torch.equal(products.linear(x, weight), functional.linear(x, weight))
        with products.quick_modules(x, 5 * 48 * 40):
            functional.linear(x, weight)


def test_gradients_reach_what_is_read_and_what_learns_is_left_to_torch(asked: list[Any]) -> None:
    torch.manual_seed(0)
    weight, bias = torch.randn(40, 48), torch.randn(40)
    x = torch.randn(5, 48, requires_grad=True)
    out = torch.randn(5, 40)
    (found,) = torch.autograd.grad((products.linear(x, weight, bias) * out).sum(), x)
    torch.testing.assert_close(found, out @ weight)
    assert asked == [(40, 48), (48, 40)]
    for learned in (weight, bias):
        learned.requires_grad_()
        products.linear(x, weight, bias).sum().backward()
        assert learned.grad is not None
        learned.requires_grad_(requires_grad=False)
    assert len(asked) == 2


@pytest.mark.parametrize("module", [torch.nn.Linear(48, 40), Conv1D(40, 48)], ids=["Linear", "Conv1D"])
def test_modules_of_the_stock_model_go_the_same_way(module: torch.nn.Module, asked: list[Any]) -> None:
    module.requires_grad_(requires_grad=False)
    x = torch.randn(2, 3, 48)
    stock = module(x)
    with products.quick_modules(x, 1):
        torch.testing.assert_close(module(x), stock)
    assert asked == [(40, 48)]
    module(x)
    assert len(asked) == 1


def test_matrices_side_by_side_are_multiplied_one_by_one(asked: list[Any]) -> None:
    torch.manual_seed(0)
    left, right = torch.randn(3, 5, 48), torch.randn(3, 40, 48).transpose(1, 2)
    torch.testing.assert_close(products.batched(left, right), left @ right)
    assert len(asked) == 3


def test_a_circuit_is_the_same_and_scores_are_up_to_rounding(asked: list[Any]) -> None:
    model = load_model("toy:trained")
    batch = model.batch(Induction(count=4).pairs(model.tokenizer, seed=0))
    found = [[method.score(model, [batch]) for method in (Acdc(threshold=0.05), EapIg())]]
    assert asked
    with patch.object(products, "_THERE", new=False):
        found.append([method.score(model, [batch]) for method in (Acdc(threshold=0.05), EapIg())])
    (quick, ig), (plain, plain_ig) = found
    assert (quick.kept == plain.kept).all()
    for a, b in ((quick, plain), (ig, plain_ig)):
        torch.testing.assert_close(
            torch.from_numpy(a.score), torch.from_numpy(b.score), rtol=1e-4, atol=1e-5, equal_nan=True
        )
