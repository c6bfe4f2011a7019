"""What is read in a run is what the stock model says, and an edited run is the dense forward with that edit in it."""

import numpy as np
import pytest
import torch

from pipeline.core.errors import CircuitsError
from pipeline.engine.edits import Add, Knockout, Mask, Replace, Site, decode, run
from pipeline.engine.senders import at_answer
from tests.engine.test_circuit_run import drawn, emptied_of
from tests.exactness import relative_error, stock_logits
from tests.oracles import models

LOGITS = Site("logits")


def logits_at(setting, logits):
    return logits[torch.arange(len(logits)), setting.prompts.answer_pos]


def oracle(setting, **options):
    p = setting.prompts
    return logits_at(setting, setting.dense.forward(p.clean, p.mask, **options).logits)


def edited(setting, *edits):
    return run(setting.model, setting.batch, edits)[LOGITS]


def vector_of(setting, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(setting.dense.d_model, generator=generator, dtype=torch.float64)


def receivers_after(graph, site):
    """Who reads what is added at a site, as a slice of receivers."""
    if site.layer == graph.n_layers:
        return slice(graph.logits_receiver, None)
    first = graph.head_receiver(site.layer, "q")
    mlp = graph.mlp_receiver(site.layer)
    return slice({"residual": first, "attention": mlp + graph.parallel, "mlp": mlp + 1}[site.kind], None)


@pytest.mark.parametrize("kind", models.KINDS)
def test_a_run_without_edits_is_the_stock_run(setting_of, kind):
    setting = setting_of(kind, padding="left")
    n = setting.graph.n_layers
    kinds = ("attention", "mlp", "pattern")
    sites = [Site("residual", layer) for layer in range(n + 1)]
    sites += [Site(one, layer) for layer in range(n) for one in kinds]
    found = run(setting.model, setting.batch, [], [*sites, LOGITS, Site("normed")])
    assert relative_error(found[LOGITS], stock_logits(setting, setting.prompts.clean, eager=True)) <= 1e-10
    last = at_answer(found[Site("residual", n)], setting.batch.answer_pos).squeeze(-2)
    assert relative_error(decode(setting.model, last), found[LOGITS]) <= 1e-12
    for layer in range(n):
        before, after = (found[Site("residual", layer + i)] for i in (0, 1))
        added = found[Site("attention", layer)] + found[Site("mlp", layer)]
        real = setting.prompts.real
        assert relative_error((before + added)[real], after[real]) <= 1e-10
        assert (
            relative_error(found[Site("pattern", layer)].sum(-1)[:, 0][real], torch.ones(real.sum())) <= 1e-12
        )


@pytest.mark.parametrize("kind", models.KINDS)
def test_what_is_added_at_a_site_is_read_by_all_that_come_after_it(setting_of, kind):
    setting = setting_of(kind, padding="left")
    graph, prompts, vector = setting.graph, setting.prompts, vector_of(setting)
    at = prompts.real & (torch.arange(prompts.real.shape[1]) >= 3)
    last = Site("residual", graph.n_layers)
    for site in (Site("residual", 1), Site("attention", 0), Site("mlp", 0), last):
        added = torch.zeros(graph.n_receivers, *at.shape, len(vector), dtype=torch.float64)
        added[receivers_after(graph, site)] = at[..., None] * vector
        assert relative_error(edited(setting, Add(site, vector, at)), oracle(setting, added=added)) <= 1e-10


@pytest.mark.parametrize("kind", models.KINDS)
def test_a_head_that_is_replaced_is_one_of_which_all_edges_are_ablated(setting_of, kind):
    setting = setting_of(kind, padding="right")
    graph = setting.graph
    site = Site("z", 0)
    z = run(setting.model, setting.batch, [], [site], which="corrupted")[site]
    kept = graph.edge_senders != graph.head_sender(0, 1)
    found = edited(setting, Replace(site, z[:, :, 1], head=1))
    assert relative_error(found, logits_at(setting, setting.patched(kept))) <= 1e-10


@pytest.mark.parametrize("kind", models.KINDS)
@pytest.mark.parametrize("heads", [None, (1,)])
def test_a_knockout_takes_keys_from_queries_before_softmax(setting_of, kind, heads, monkeypatch):
    setting = setting_of(kind, padding="left")
    real, steps = setting.prompts.real, torch.arange(setting.prompts.real.shape[1])
    queries, keys = real & (steps >= 4), real & (steps == 3)
    family, cut = setting.dense.family, queries[:, :, None] & keys[:, None]
    pattern = family.pattern

    def without(layer, q, k, mask):
        if layer != 1:
            return pattern(layer, q, k, mask)
        chosen = torch.tensor([heads is None or head in heads for head in range(len(q))])
        hidden = chosen[:, None, None, None] & cut
        return pattern(layer, q, k, mask.expand_as(hidden).masked_fill(hidden, torch.finfo(q.dtype).min))

    monkeypatch.setattr(family, "pattern", without)
    assert relative_error(edited(setting, Knockout(1, heads, queries, keys)), oracle(setting)) <= 1e-10


@pytest.mark.parametrize("kind", models.KINDS)
def test_gradients_reach_what_is_added(setting_of, kind):
    setting = setting_of(kind, padding="left")
    graph, vector = setting.graph, torch.zeros_like(vector_of(setting)).requires_grad_()
    found = run(setting.model, setting.batch, [Add(Site("residual", 1), vector)], grad=True)[LOGITS]
    direction = torch.randn(found.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    (gradient,) = torch.autograd.grad((found * direction).sum(), vector)
    added = torch.zeros(graph.n_receivers, *setting.batch.clean.shape, len(vector), dtype=torch.float64)
    added.requires_grad_()
    (expected,) = torch.autograd.grad((oracle(setting, added=added) * direction).sum(), added)
    expected = expected[receivers_after(graph, Site("residual", 1))].sum((0, 1, 2))
    assert relative_error(gradient, expected) <= 1e-9


@pytest.mark.parametrize(("kind", "post_norm"), [("gpt2", "mixed"), ("granite", "mixed"), ("gemma2", "own")])
def test_what_heads_write_adds_up_to_attention(setting_of, kind, post_norm):
    setting = setting_of(kind, post_norm=post_norm)
    heads, attention = Site("heads", 1), Site("attention", 1)
    found = run(setting.model, setting.batch, [], [heads, attention])
    bias = setting.model.parts.blocks[1].out_bias
    factor = setting.model.parts.blocks[1].multiplier
    total = found[heads].sum(2) + (0.0 if bias is None else bias * factor)
    assert relative_error(total, found[attention]) <= 1e-10


def test_a_mask_carries_shares_of_edges_and_gradients_to_them(setting_of):
    setting = setting_of("llama", padding="left")
    weights = drawn(setting.graph, 1, 0.5)[1][0].requires_grad_()
    found = run(setting.model, setting.batch, [Mask(weights, emptied_of(setting))], grad=True)[LOGITS]
    expected = logits_at(setting, setting.patched(weights.detach().numpy()))
    assert relative_error(found.detach(), expected) <= 1e-10
    found.sum().backward()
    np.testing.assert_array_equal(weights.grad[weights == 0], 0.0)
    assert weights.grad.any()


def test_edits_are_made_in_the_order_given_and_read_afterwards(setting_of):
    setting = setting_of("gpt2")
    site, vector = Site("mlp", 0), vector_of(setting)
    edits = [Replace(site, torch.zeros_like(vector)), Add(site, vector), Add(site, vector)]
    found = run(setting.model, setting.batch, edits, [site])[site]
    torch.testing.assert_close(found, (2 * vector).expand_as(found))


def test_nothing_of_an_edited_run_remains_after_an_error(setting_of):
    setting = setting_of("gptj")
    real = setting.prompts.real
    before = edited(setting)
    implementation = setting.model.config._attn_implementation
    with pytest.raises(CircuitsError, match="layer 0: position 0 of prompt 0 of the batch has nothing left"):
        edited(setting, Knockout(0, None, real, real))
    assert setting.model.config._attn_implementation == implementation
    assert not any(
        module._forward_pre_hooks or module._forward_hooks for module in setting.model.hf.modules()
    )
    torch.testing.assert_close(edited(setting), before, rtol=0, atol=0)


def test_what_is_not_there_or_not_to_be_edited_is_named(setting_of):
    setting = setting_of("gpt2")
    n, vector = setting.graph.n_layers, vector_of(setting)
    real = setting.prompts.real
    for edit, message in (
        (Add(Site("mlp", n), vector), f"no mlp of layer {n}: there are 0 to {n - 1}"),
        (Add(Site("pattern", 0), vector), "pattern can be read and not edited; edit one of residual"),
        (Knockout(0, (99,), real, real), "no head 99: layers have heads 0 to"),
        (Replace(Site("mlp", 0), vector, head=0), "mlp has no heads"),
    ):
        with pytest.raises(CircuitsError, match=message):
            edited(setting, edit)
    with pytest.raises(CircuitsError, match="mlp needs a layer"):
        Site("mlp")
