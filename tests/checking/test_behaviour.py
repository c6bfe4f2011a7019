"""What a model does on prompts is what the stock model's own logits say."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline import load_model
from pipeline.checking.behaviour import Behaviour
from pipeline.core.intervals import Z_95, wilson_95
from pipeline.core.prompts import PromptPair
from pipeline.models.tokens import tokenise
from pipeline.tasks import Induction


@pytest.fixture(scope="module")
def model():
    return load_model("toy:trained")


@pytest.fixture(scope="module")
def tokens(model):
    """Six prompts that the model gets right, and six that ask for another answer."""
    pairs = Induction(count=12, length=8).pairs(model.tokenizer, seed=1)
    turned = [
        PromptPair(p.clean, p.corrupted, p.wrong_answers, p.answers, source=p.source) for p in pairs[6:9]
    ]
    open_ = [PromptPair(p.clean, p.corrupted, p.answers, (), source=p.source) for p in pairs[9:]]
    return tokenise([*pairs[:6], *turned, *open_], model.tokenizer, vocab_size=model.config.vocab_size)


def by_hand(model, token):
    with torch.no_grad():
        logits = [
            model.hf(torch.tensor([ids])).logits[0, -1].double() for ids in (token.clean, token.corrupted)
        ]
    return [values.numpy() for values in logits]


def test_accuracy_greedy_accuracy_and_what_is_said_instead_are_those_of_the_stock_model(model, tokens):
    behaviour = Behaviour(model, (), "causal")
    behaviour.take(tokens[:7], 4)
    behaviour.take(tokens[7:], 4)
    facts = behaviour.facts()
    above, first, still = [], [], []
    for token in tokens:
        clean, corrupted = by_hand(model, token)
        right = clean[list(token.answers)].max()
        if token.wrong_answers:
            above.append(right > clean[list(token.wrong_answers)].max())
        first.append(int(clean.argmax()) in token.answers)
        still.append(int(corrupted.argmax()) in token.answers)
    assert facts["accuracy"] == np.mean(above) == 6 / 9
    assert facts["greedy"] == np.mean(first) == 9 / 12
    assert facts["still_right"] == np.mean(still)
    assert sum(one["prompts"] for one in facts["instead"]) == 3
    assert (facts["accuracy_low"], facts["accuracy_high"]) == wilson_95(6, 9)


def test_metrics_are_averaged_over_clean_and_over_corrupted_prompts(model, tokens):
    behaviour = Behaviour(model, ("logit_diff",), "causal")
    behaviour.take(tokens[:9], 4)
    values = [
        [
            logits[list(token.answers)].mean() - logits[list(token.wrong_answers)].mean()
            for logits in by_hand(model, token)
        ]
        for token in tokens[:9]
    ]
    found = behaviour.facts()["metrics"]["logit_diff"]
    for column, which in enumerate(("clean", "corrupted")):
        assert found[which]["mean"] == pytest.approx(np.mean([row[column] for row in values]), abs=1e-4)
        assert found[which]["std"] == pytest.approx(np.std([row[column] for row in values]), abs=1e-4)


def test_without_prompts_there_is_nothing_to_say(model):
    facts = Behaviour(model, ("logit_diff",), "causal").facts()
    assert facts["accuracy"] is facts["greedy"] is facts["still_right"] is None
    assert facts["metrics"] == {}


@given(st.integers(1, 5000), st.data())
def test_both_ends_of_wilsons_interval_are_where_the_share_is_just_within_reach(n, data):
    right = data.draw(st.integers(0, n))
    low, high = wilson_95(right, n)
    assert 0 <= low <= right / n <= high <= 1
    for end in (low, high):
        if 0 < end < 1:  # |share - p| = z sqrt(p (1 - p) / n), solved for p
            assert abs(right / n - end) == pytest.approx(
                Z_95 * math.sqrt(end * (1 - end) / n), rel=1e-6, abs=1e-9
            )
