"""A model computes in the numbers it is loaded with, or is refused in one line that names them."""

import pytest
import torch
from torch import nn

from pipeline import load_model
from pipeline.core.errors import ModelError
from pipeline.engine.patchable import patchable
from pipeline.methods import Eap
from tests.oracles import models


def scored(model):
    ids = torch.tensor([[1, 2, 3]])
    batch = model.batch_from_ids(ids, ids.flip(1), torch.tensor([1]), torch.tensor([2]))
    return Eap().score(model, [batch], metric="logit_diff").score


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
@pytest.mark.parametrize("kind", models.MIXTURES)
def test_mixtures_of_experts_are_loaded_in_any_precision(tmp_path, kind, dtype):
    stock = models.build(kind)
    model = load_model(models.save(stock.float(), tmp_path / "model"), dtype=dtype)
    assert model.hf.dtype == getattr(torch, dtype)
    assert abs(scored(model)).max() > 0


def test_a_model_converted_to_float64_before_it_is_wrapped_needs_no_kernel_named():
    stock = models.build("mixtral").float()
    stock.set_experts_implementation("grouped_mm")
    assert abs(scored(patchable(stock.double()))).max() > 0


@pytest.mark.parametrize("kind", ["mixtral", "gpt2"])
def test_a_model_converted_after_it_was_loaded_is_refused_by_name_of_both(kind):
    model = patchable(models.build(kind).float())
    model.hf.double()
    with pytest.raises(
        ModelError, match=r"was float32 when it was loaded and is float64 now; load it with dtype"
    ):
        scored(model)


class Narrow(nn.Module):
    """A fused kernel that knows one kind of numbers."""

    def forward(self, x):
        raise RuntimeError(f"Expected mat_a to be Float32 matrix, got {x.dtype}\nand a page of more")


def test_a_kernel_that_knows_no_such_numbers_is_one_line_with_the_dtype_and_the_mend():
    stock = models.build("llama")
    stock.model.layers[1].mlp = Narrow()
    with pytest.raises(
        ModelError, match=r"does not run in float64 on cpu .*Float32.*; load it in float32"
    ) as caught:
        patchable(stock)
    assert "\n" not in str(caught.value)
