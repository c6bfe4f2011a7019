"""Circuits that run together, sparsely and with weights: the values of a dense forward each, and its gradients."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch

from pipeline.ablations import record
from pipeline.core.wiring import wire
from pipeline.engine.circuit_run import run_circuits
from pipeline.engine.emptied import Emptied
from pipeline.evaluation import circuit_values
from tests.exactness import relative_error
from tests.oracles import models

STEP = 1e-5


def emptied_of(setting, ablation="corrupted"):
    runs = record(setting.model, setting.batch, ablation)
    model = setting.model
    executor = model.executor(runs.clean, runs.answer_pos)
    return Emptied.of(model.parts, model.graph, executor, runs.clean, runs.values)


def logits_of(setting, emptied, masks, weights=None, *, mute=True):
    wirings = wire(setting.graph, setting.model.coupled, masks, mute=mute)
    return setting.model.unembedding.logits(run_circuits(emptied, wirings, weights))


def expected_logits(setting, weights, ablation="corrupted"):
    """The oracle's logits at the answers, an edge of weight w carrying w of its value and 1 - w of its ablated one."""
    return torch.stack([_at_answers(setting, setting.patched(w, ablation)) for w in np.asarray(weights)])


def _at_answers(setting, logits):
    return logits[torch.arange(len(logits)), setting.prompts.answer_pos]


def drawn(graph, n=5, least=0.03):
    """Circuits of few edges and of many, and what their edges are worth, some of it negative or above 1."""
    rng = np.random.default_rng(0)
    masks = rng.random((n, graph.n_edges)) < np.geomspace(least, 0.9, n)[:, None]
    return masks, torch.from_numpy(rng.uniform(-0.2, 1.2, masks.shape) * masks)


@pytest.mark.parametrize("ablation", ["corrupted", "zero"])
@pytest.mark.parametrize("kind", models.KINDS)
def test_an_edge_may_carry_any_share_of_its_value(setting_of, kind, ablation):
    setting = setting_of(kind, padding="left")
    masks, weights = drawn(setting.graph)
    found = logits_of(setting, emptied_of(setting, ablation), masks, weights, mute=ablation == "corrupted")
    assert relative_error(found, expected_logits(setting, weights, ablation)) <= 1e-10


@pytest.mark.parametrize("post_norm", ["own", "mib"])
@pytest.mark.parametrize("kind", ["gemma2", "olmo2"])
def test_where_a_norm_follows_attention_shares_are_taken_where_heads_write(setting_of, kind, post_norm):
    setting = setting_of(kind, padding="left", post_norm=post_norm)
    masks, weights = drawn(setting.graph)
    found = logits_of(setting, emptied_of(setting), masks, weights)
    assert relative_error(found, expected_logits(setting, weights)) <= 1e-10


@pytest.mark.parametrize("every", [False, True])
@pytest.mark.parametrize("kind", models.KINDS)
def test_gradients_are_those_of_finite_differences_of_the_dense_forward(setting_of, kind, every):
    """Of edges of the circuit, or of all edges, those included that are worth nothing."""
    setting = setting_of(kind, padding="left")
    graph, rng = setting.graph, np.random.default_rng(1)
    masks, weights = drawn(graph, 1, 0.5)
    direction = torch.from_numpy(rng.normal(size=(setting.batch.n_prompts, setting.stock.config.vocab_size)))

    def value(given):
        return (expected_logits(setting, given) * direction).sum()

    weights.requires_grad_()
    wired = np.ones_like(masks) if every else masks
    (logits_of(setting, emptied_of(setting), wired, weights) * direction).sum().backward()
    gradient = weights.grad[0].numpy()
    assert every or not gradient[~masks[0]].any()
    chosen = rng.choice(np.flatnonzero(wired[0]), 3, replace=False)
    steps = torch.zeros(len(chosen), *weights.shape, dtype=torch.float64)
    steps[range(len(chosen)), 0, chosen] = STEP
    base = weights.detach()
    expected = [float((value(base + step) - value(base - step)) / (2 * STEP)) for step in steps]
    np.testing.assert_allclose(gradient[chosen], expected, rtol=1e-5, atol=1e-6 * np.abs(gradient).max())


def test_a_circuit_of_which_all_edges_dangle_has_gradients_of_zero(setting_of):
    setting = setting_of("gpt2")
    mask = setting.graph.mask(["input->m0"])[None]
    weights = torch.from_numpy(1.0 * mask).requires_grad_()
    logits_of(setting, emptied_of(setting), mask, weights).sum().backward()
    assert not weights.grad.any()


@pytest.mark.parametrize("kind", models.KINDS)
def test_circuits_that_run_together_have_the_values_that_they_have_alone(setting_of, kind):
    setting = setting_of(kind, padding="right", shared=2)
    masks, _ = drawn(setting.graph)
    emptied = emptied_of(setting)
    alone = [logits_of(setting, emptied, mask[None])[0] for mask in masks]
    assert relative_error(logits_of(setting, emptied, masks), torch.stack(alone)) <= 1e-12


@contextmanager
def rows_of_mlps(model):
    """(layer, circuits x prompts, positions) of what MLPs read while open."""
    seen, handles = [], []
    for block in model.parts.blocks:

        def keep(_module, args, layer=block.layer):
            seen.append((layer, *args[0].shape[:2]))

        handles.append(block.mlp_in.register_forward_pre_hook(keep))
    yield seen
    for handle in handles:
        handle.remove()


def test_only_what_is_read_is_computed_and_only_where_it_is_read(setting_of):
    setting = setting_of("gpt2", lengths=[5, 5])
    graph = setting.graph
    names = (
        ["input->m1", "m1->logits", "input->m0"],  # m0 is read by nobody
        ["input->m0", "m0->a1.h0<k>", "a1.h0->m1", "m1->logits"],
        ["input->m0", "m0->a1.h0<q>", "a1.h0->logits"],
    )
    masks = np.stack([graph.mask(some) for some in names])
    with rows_of_mlps(setting.model) as seen:
        emptied = emptied_of(setting)
        seen.clear()
        logits_of(setting, emptied, masks)
    # Everywhere for one circuit, whose key reads it; at the answer for another; at the answer for two of them.
    assert seen == [(0, 2, 5), (0, 2, 1), (1, 4, 1)]


def test_the_full_circuit_and_the_empty_one_cost_their_recorded_runs_and_nothing_else(setting_of):
    setting = setting_of("gpt2")
    full = np.ones(setting.graph.n_edges, dtype=bool)
    setting.model.counters.reset()
    with rows_of_mlps(setting.model) as seen:
        circuit_values(setting.model, [setting.batch], np.stack([full, ~full]))
    assert len(seen) == 2 * setting.graph.n_layers
    assert setting.model.counters.evaluations == 0
