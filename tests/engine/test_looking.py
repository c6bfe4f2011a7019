"""Where heads look is what the stock model's own attention weights say."""

import numpy as np
import pytest
import torch

from pipeline import PromptPair, load_model
from pipeline.core.ways import Way
from pipeline.engine.looking import looked
from pipeline.tasks import Induction

HEADS = [(0, 0), (1, 1), (1, 0)]


@pytest.fixture(scope="module")
def model():
    return load_model("toy:trained")


def test_shares_are_sums_over_the_stock_models_weights_averaged_over_prompts(model):
    pairs = Induction(count=5).pairs(model.tokenizer, seed=0)
    ways = (Way("last", "b", ""), Way("b", "a", ""), Way("last", "last", ""))
    found = looked(model, model.batch(pairs).split(2), HEADS, ways)
    expected = np.zeros_like(found)
    model.hf.set_attn_implementation("eager")
    for pair in pairs:
        batch = model.batch([pair])
        with torch.no_grad():
            weights = model.hf(batch.clean, output_attentions=True).attentions
        last = batch.length - 1
        a, b = (int(batch.spans[name][0].nonzero()) for name in ("a", "b"))
        for row, (layer, head) in enumerate(HEADS):
            pattern = weights[layer][0, head]
            expected[row] += [pattern[last, b], pattern[b, a], pattern[last, last]]
    np.testing.assert_allclose(found, expected / len(pairs), rtol=1e-5, atol=1e-7)


def test_a_place_of_several_tokens_is_summed_over_as_target_and_averaged_over_as_source(model):
    text = "Then, Sarah and David went to the store. David gave a ring to"
    pair = PromptPair(
        clean=text,
        corrupted=text.replace("Sarah", "Kevin"),
        answers=(" Sarah",),
        wrong_answers=(" David",),
        spans={"words": (0, 16), "went": "went"},
    )
    batch = model.batch([pair])
    ways = (Way("went", "words", ""), Way("words", "went", ""))
    (shares,) = looked(model, [batch], [(0, 0)], ways)
    each = looked(
        model, [batch], [(0, 0)], (Way("last", "words", ""), Way("last", "nowhere", ""))
    )  # no prompt has it
    assert 0 < shares[0] < 1
    assert shares[1] == 0  # no token looks ahead
    assert np.isnan(each[0, 1])
