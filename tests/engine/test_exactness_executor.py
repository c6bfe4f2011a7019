"""A run recomputed from parts has the stock logits: all families, any padding, float64 and float32."""

import numpy as np
import pytest
import torch

from tests.exactness import CASES, PADDINGS, recomputed_logits, relative_error, stock_logits
from tests.oracles import models

TOLERANCE = {"float64": 1e-10, "float32": 1e-5}
# What these models round to float32 is not rounded so by parts: norms of the sum of all heads, and scores.
ROUNDED = ("gemma2", "gemma3", "olmo2", "gptj")


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("kind", "kv", "padding"), CASES)
def test_recomputed_runs_have_the_stock_logits(setting_of, kind, kv, padding, dtype):
    setting = setting_of(kind, kv=kv, padding=padding, dtype=dtype)
    senders = setting.graph.edge_senders
    every = np.ones(len(senders), dtype=bool)
    # Without the edges from `input` every node is recomputed, from the corrupted prompt's embeddings.
    for kept, ids in (
        (every, setting.prompts.clean),
        (~every, setting.prompts.corrupted),
        (senders != 0, setting.prompts.corrupted),
    ):
        expected = stock_logits(setting, ids)
        assert relative_error(recomputed_logits(setting, kept), expected) <= TOLERANCE[dtype]


@pytest.mark.parametrize("kind", models.KINDS)
def test_a_model_is_met_to_the_rounding_that_it_does_itself(settings, kind):
    """The model as it is: its norms, and more in some families, in float32 whatever its own precision."""
    setting = settings(kind, padding="none")
    kept = setting.graph.edge_senders != 0
    error = relative_error(recomputed_logits(setting, kept), stock_logits(setting, setting.prompts.corrupted))
    assert error <= (1e-6 if kind in ROUNDED else 1e-10)


@pytest.mark.parametrize("kind", models.KINDS)
def test_single_precision_agrees_with_eager_attention_too(setting_of, kind):
    setting = setting_of(kind, padding="left", dtype="float32")
    expected = stock_logits(setting, setting.prompts.clean, eager=True)
    kept = np.ones(setting.graph.n_edges, dtype=bool)
    assert relative_error(recomputed_logits(setting, kept), expected) <= 1e-5


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("kind", models.KINDS)
def test_whole_blocks_composed_from_parts_are_the_stock_blocks(setting_of, kind, padding):
    setting = setting_of(kind, padding=padding)
    model, batch = setting.model, setting.batch
    clean, corrupted = model.capture(batch, "clean"), model.capture(batch, "corrupted")
    executor = model.executor(clean, batch.answer_pos)
    both = torch.stack([clean.input, corrupted.input])
    logits = model.unembedding.logits(executor.rest(0, both))
    assert relative_error(logits[0], stock_logits(setting, setting.prompts.clean)) <= 1e-10
    assert relative_error(logits[1], stock_logits(setting, setting.prompts.corrupted)) <= 1e-10


@pytest.mark.parametrize("kind", ["llama", "mistral", "phi3", "gemma2"])
def test_the_first_token_is_out_of_reach_only_where_all_layers_have_a_window(setting_of, kind):
    setting = setting_of(kind)  # two windows reach back 4 of the 5 positions before the answer
    other = setting.prompts.clean.clone()
    other[:, 0] = setting.prompts.corrupted[:, 0]
    changed = relative_error(stock_logits(setting, other), stock_logits(setting, setting.prompts.clean))
    assert (changed == 0) == (kind in ("mistral", "phi3"))
