"""Bounds on steps of a divergence, against the divergence itself in float64."""

import pytest
import torch

from pipeline.engine import bounds
from pipeline.engine.batch import from_ids
from pipeline.engine.bounds import DivergenceSteps, Vocabulary
from pipeline.engine.readout import Objective, Unembedding
from pipeline.metrics import METRICS

PROMPTS, STEPS = 3, 6


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(bounds, "_LIKELY", 5)
    monkeypatch.setattr(bounds, "_FAR", 4)
    monkeypatch.setattr(bounds, "_BLOCK", 13)


def _objective(seed, vocab=60, width=7, softcap=None, size=1.0):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    weight = size * normal(vocab, width) * normal(vocab, 1).exp() + normal(width)
    bias = normal(vocab) if seed % 2 else None
    unembedding = Unembedding(weight, bias, scale=1.0 if seed % 3 else 0.7, softcap=softcap)
    ids = torch.zeros(PROMPTS, 4, dtype=torch.long)
    batch = from_ids(ids, ids, torch.zeros(PROMPTS, dtype=torch.long))
    objective = Objective(
        METRICS["kl_divergence"].compute, 1, unembedding, batch, unembedding.reference(normal(PROMPTS, width))
    )
    return objective, normal


def _walk(normal, far, width=7):
    """Hidden states one after the other, the last of which spared some steps before it."""
    hidden = normal(1, PROMPTS, width) + (far * normal(1 + STEPS, PROMPTS, width)).cumsum(0)
    return hidden, [(index // 2, index + 1) for index in range(STEPS)]


@pytest.mark.parametrize("far", [1e-4, 1e-2, 0.1, 1.0, 10.0])
@pytest.mark.parametrize("size", [0.1, 1.0, 10.0])
def test_a_step_lies_within_its_bounds(far, size):
    for seed in range(20):
        objective, normal = _objective(seed, size=size)
        vocabulary = Vocabulary.of(objective.unembedding)
        assert vocabulary is not None
        steps = DivergenceSteps(objective, vocabulary)
        hidden, ends = _walk(normal, far)
        values = objective(hidden)
        truth = torch.stack([values[last] - values[first] for first, last in ends])
        for there in (0, 3):  # from a tail made at the first state, and from one made elsewhere
            found = steps.bounded(hidden, ends, [torch.inf], 0.0, steps.tail(hidden[there]))
            assert bool(((found.middle - truth).abs() <= found.error + 1e-11 * values.max()).all())
            assert bool((found.error > 0).all())


@pytest.mark.parametrize("far", [1e-2, 0.3, 3.0])
def test_a_step_is_exact_where_its_bounds_hold_a_threshold_or_where_it_is_above_all(far):
    kinds = set()
    for seed in range(10):
        objective, normal = _objective(seed)
        steps = DivergenceSteps(objective, Vocabulary.of(objective.unembedding))
        hidden, ends = _walk(normal, far)
        values = objective(hidden)
        truth = torch.stack([values[last] - values[first] for first, last in ends])
        threshold = float(truth.mean(-1).sort().values[2]) + 1e-9
        found = steps.bounded(hidden, ends, [threshold], 1e-8, steps.tail(hidden[0]))
        for step, exact, error in zip(found.middle, truth, found.error, strict=True):
            kinds.add(bool(error.max() > 0))
            if error.max() == 0:
                torch.testing.assert_close(step, exact, rtol=1e-10, atol=1e-10)
            else:
                assert float((step + error).mean()) < threshold
                assert float(exact.mean()) < threshold
    assert False in kinds


@pytest.mark.parametrize("why", ["softcap", "small"])
def test_steps_are_exact_where_bounds_are_of_no_use(why, monkeypatch):
    if why == "small":
        monkeypatch.setattr(bounds, "_LIKELY", 30)
    objective, normal = _objective(1, softcap=4.0 if why == "softcap" else None)
    vocabulary = Vocabulary.of(objective.unembedding)
    assert vocabulary is None
    hidden, ends = _walk(normal, 1.0)
    values = objective(hidden)
    steps = DivergenceSteps(objective, vocabulary)
    assert steps.tail(hidden[0]) is None
    found = steps.bounded(hidden, ends, [0.1], 0.0, None)
    assert float(found.error.max()) == 0.0
    torch.testing.assert_close(found.middle[1], values[2] - values[0])
