"""The oracles against stock models, finite differences and hand counts, before anything is judged by them."""

import functools
import math

import numpy as np
import pytest
import torch

from pipeline.core.graph import Graph
from tests.oracles import acdc, attribution, metrics, models
from tests.oracles.dense import Dense, patched_logits, position_ids
from tests.oracles.float64 import float64_throughout

PADDINGS = ("none", "left", "right")
PARALLEL = ("gpt_neox", "gptj", "phi", "cohere", "cohere_qk")
# Their norms of the sum of all heads are rounded to float32 by the stock model; no split over heads is so rounded.
COUPLED = ("gemma2", "gemma3", "olmo2")


def graph_of(model, kv="query_head"):
    config = model.config
    kv_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    parallel = config.model_type in ("gptj", "phi", "cohere") or getattr(
        config, "use_parallel_residual", False
    )
    return Graph(config.num_hidden_layers, config.num_attention_heads, kv_heads, parallel, kv)


def prompts_with(padding):
    return models.prompts([6, 6, 6] if padding == "none" else [6, 3, 5], padding)


def stock_logits(model, ids, mask):
    with torch.no_grad():
        return model(ids, attention_mask=mask, position_ids=position_ids(ids, mask), use_cache=False).logits


def assert_equal(a, b, real, tolerance=1e-10):
    assert float((a - b)[real].abs().max()) <= tolerance * float(b[real].abs().max())


@pytest.fixture(scope="module")
def built():
    """Models, each built once."""
    return functools.cache(models.build)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize(("kind", "kv"), models.SHAPES)
def test_all_kept_is_the_stock_clean_run_and_none_kept_the_stock_corrupted_run(built, kind, kv, padding):
    model, p = built(kind), prompts_with(padding)
    graph = graph_of(model, kv)
    assert graph.parallel == (kind in PARALLEL)
    with float64_throughout():
        for kept, ids in ((True, p.clean), (False, p.corrupted)):
            mask = np.full(graph.n_edges, kept)
            logits = patched_logits(model, p.clean, p.corrupted, p.mask, mask, graph, float32_norms=False)
            assert_equal(logits, stock_logits(model, ids, p.mask), p.real)


# Gemma 2 only without padding: its softmax in float32 has no value where a float64 mask hides everything.
@pytest.mark.parametrize(
    ("kind", "padding"),
    [
        (kind, padding)
        for kind in models.KINDS
        for padding in PADDINGS
        if kind != "gemma2" or padding == "none"
    ],
)
def test_with_its_excursions_to_float32_it_is_the_stock_model_as_it_is(built, kind, padding):
    model, p = built(kind), prompts_with(padding)
    every = np.ones(graph_of(model).n_edges, dtype=bool)
    logits = patched_logits(model, p.clean, p.corrupted, p.mask, every, graph_of(model))
    tolerance = 1e-6 if kind in COUPLED else 1e-10
    assert_equal(logits, stock_logits(model, p.clean, p.mask), p.real, tolerance)


@pytest.mark.parametrize("kind", models.KINDS)
def test_the_stock_model_goes_through_float32_where_the_formulas_do_not(built, kind):
    """What `float64_throughout` takes away is there, and is no more than rounding."""
    model, p = built(kind), prompts_with("none")
    with float64_throughout():
        pure = stock_logits(model, p.clean, None)
    stock = stock_logits(model, p.clean, None)
    error = float((pure - stock).abs().max() / stock.abs().max())
    assert error <= 1e-6
    assert (error > 1e-10) == (kind not in ("gpt2", "opt", "gpt_neox", "gpt_neox_sequential", "phi"))


PLAIN_ROPE = {"rope_type": "default", "rope_theta": 125.0}


@pytest.mark.parametrize(
    ("kind", "ordinary"),
    [
        ("mistral", {"sliding_window": None}),
        ("llama3", {"rope_parameters": PLAIN_ROPE}),
        ("gemma2", {"attn_logit_softcapping": 1e6}),
        ("gemma2", {"final_logit_softcapping": None}),
        ("gemma2", {"sliding_window": 16}),
        ("gemma2", {"layer_types": ["full_attention", "sliding_attention"]}),
        ("gemma2", {"query_pre_attn_scalar": 6}),
        ("gemma3", {"rope_parameters": {"sliding_attention": PLAIN_ROPE, "full_attention": PLAIN_ROPE}}),
        ("gemma3", {"final_logit_softcapping": None}),
        ("phi3", {"sliding_window": None}),
        ("phi3", {"rope_parameters": PLAIN_ROPE | {"partial_rotary_factor": 1.0}}),
        ("granite", {"embedding_multiplier": 1.0}),
        ("granite", {"residual_multiplier": 1.0}),
        ("granite", {"attention_multiplier": 0.5}),
        ("granite", {"logits_scaling": 1.0}),
        ("mixtral", {"num_experts_per_tok": 1}),
        ("qwen2_moe", {"num_experts_per_tok": 1}),
        ("qwen2_moe", {"norm_topk_prob": True}),
        ("qwen2_moe", {"layer_types": ["full_attention", "full_attention"]}),
        ("qwen3_moe", {"norm_topk_prob": False}),
        ("qwen3_moe", {"use_sliding_window": False}),
        ("cohere", {"logit_scale": 1.0}),
        ("gpt_neox", {"use_parallel_residual": False}),
        ("gpt_neox_sequential", {"use_parallel_residual": True}),
        ("gptj", {"rotary_dim": 8}),
        ("opt", {"activation_function": "gelu"}),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_what_is_particular_to_a_family_changes_its_logits(built, kind, ordinary):
    p = prompts_with("none")
    a, b = (stock_logits(m, p.clean, None) for m in (built(kind), models.build(kind, changed=ordinary)))
    assert float((a - b).abs().max()) > 1e-3 * float(a.abs().max())


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("kind", models.KINDS)
def test_padding_does_not_change_a_patched_run(built, kind, padding):
    model, p = built(kind), prompts_with(padding)
    graph = graph_of(model)
    kept = np.random.default_rng(0).random(graph.n_edges) < 0.5
    padded = patched_logits(model, p.clean, p.corrupted, p.mask, kept, graph, float32_norms=False)
    for row in range(len(p.lengths)):
        real = p.real[row]
        clean, corrupted = p.clean[row, real][None], p.corrupted[row, real][None]
        alone = patched_logits(model, clean, corrupted, None, kept, graph, float32_norms=False)
        assert_equal(padded[row, real], alone[0], slice(None))


@pytest.mark.parametrize("kind", models.KINDS)
def test_a_grouped_circuit_is_the_ungrouped_one_with_whole_groups(built, kind):
    model, p = built(kind), prompts_with("none")
    fine, coarse = graph_of(model), graph_of(model, "kv_head")
    kept = np.random.default_rng(1).random(coarse.n_edges) < 0.5
    spread = np.zeros(fine.n_edges, dtype=bool)
    for receiver, node in enumerate(coarse.receivers):
        heads = range(1)
        if node.kind == "head":
            heads = coarse.heads_fed_by(receiver)
        for head in heads:
            same = fine.head_receiver(node.layer, node.port, head) if node.kind == "head" else None
            if same is None:
                same = fine.receiver_index(node.name)
            spread[fine.edges_into(same)] = kept[coarse.edges_into(receiver)]
    a = patched_logits(model, p.clean, p.corrupted, None, kept, coarse, float32_norms=False)
    b = patched_logits(model, p.clean, p.corrupted, None, spread, fine, float32_norms=False)
    assert_equal(a, b, p.real)


def deaf_and_mute(model, post_norm):
    """Logits of the full circuit, and of those without the edges into and out of a head, and without both."""
    graph, p = graph_of(model), prompts_with("none")
    full = np.ones(graph.n_edges, dtype=bool)
    deaf = full.copy()
    deaf[graph.edges_into(graph.head_receiver(0, "v", 1))] = False
    mute = full.copy()
    mute[graph.edge_senders == graph.head_sender(0, 1)] = False
    return {
        name: patched_logits(
            model, p.clean, p.corrupted, None, kept, graph, float32_norms=False, post_norm=post_norm
        )
        for name, kept in (("full", full), ("deaf", deaf), ("mute", mute), ("both", deaf & mute))
    }


@pytest.mark.parametrize(
    ("kind", "post_norm"), [*((kind, "mixed") for kind in models.KINDS), *((kind, "own") for kind in COUPLED)]
)
def test_a_head_without_outgoing_edges_matters_only_through_a_norm_that_it_shares(built, kind, post_norm):
    run = deaf_and_mute(built(kind), post_norm)
    shares = kind in COUPLED and post_norm == "own"
    assert float((run["deaf"] - run["full"]).abs().max()) > 1e-3
    left = float((run["both"] - run["mute"]).abs().max())
    assert left > 1e-3 if shares else left <= 1e-10


def test_zero_ablation_of_all_edges_leaves_the_constants_only():
    model = models.build("gpt2")
    graph, p = graph_of(model), prompts_with("none")
    zero = torch.zeros(graph.n_senders, *p.clean.shape, model.config.n_embd, dtype=torch.float64)
    none = np.zeros(graph.n_edges, dtype=bool)
    logits = patched_logits(model, p.clean, p.corrupted, None, none, graph, zero)
    biases = sum(block.attn.c_proj.bias for block in model.transformer.h)
    expected = model.lm_head(model.transformer.ln_f(biases))
    assert_equal(logits, expected.expand_as(logits), p.real)


@pytest.mark.parametrize("kind", models.KINDS)
def test_gradients_agree_with_finite_differences_of_patched_runs(built, kind):
    model = built(kind)
    graph, p = graph_of(model), prompts_with("none")
    dense = Dense(model, graph, float32_norms=False)
    clean = dense.forward(p.clean)

    def harm(logits):
        rows = metrics.at_answers(logits, p.answer_pos)
        return metrics.harm("logit_diff", metrics.metric_values("logit_diff", rows, p.answers, p.wrong))

    step = 1e-4  # ablated = clean + step * direction: the score is the first-order effect of the step
    direction = dense.forward(p.corrupted).outputs - clean.outputs
    # of a small change: behind a norm the effect of a change is not a share of that of a larger one
    less, more = (
        attribution.eap(dense, p.clean, None, clean.outputs + s * direction, harm) for s in (-step, step)
    )
    scores = (more - less) / (2 * step)
    rng = np.random.default_rng(2)
    for edge in rng.choice(graph.n_edges, 12, replace=False):
        kept = np.ones(graph.n_edges, dtype=bool)
        kept[edge] = False
        up = harm(dense.forward(p.clean, None, kept, clean.outputs + step * direction).logits)
        down = harm(dense.forward(p.clean, None, kept, clean.outputs - step * direction).logits)
        slope = ((up - down) / (2 * step)).numpy()
        np.testing.assert_allclose(scores[:, edge], slope, rtol=1e-5, atol=1e-8)


def test_naive_acdc_on_an_additive_harm_removes_what_is_below_the_threshold():
    graph = Graph(1, 1, 1)
    # The harm is a weighted count of missing edges: nothing interacts, so the decisions are known.
    cost = np.array([0.1, -0.2, 0.3, 0.05, -0.04, 0.02, 0.5, 0.1])
    assert graph.n_edges == len(cost)

    def harm(kept):
        return float(cost[~kept].sum())

    kept, delta = acdc.naive_acdc(harm, graph, 0.06)
    np.testing.assert_array_equal(kept, cost >= 0.06)
    np.testing.assert_allclose(delta, cost, atol=1e-15)
    kept, _ = acdc.naive_acdc(harm, graph, 0.06, rule="absolute")
    np.testing.assert_array_equal(kept, np.abs(cost) >= 0.06)


def test_receivers_are_visited_from_the_output_back():
    graph = Graph(2, 2, 1, kv="kv_head")
    names = [graph.receivers[r].name for r, _ in acdc.visits(graph)]
    assert names == [
        "logits",
        "m1", "a1.h1<q>", "a1.h0<q>", "a1.kv0<k>", "a1.kv0<v>",
        "m0", "a0.h1<q>", "a0.h0<q>", "a0.kv0<k>", "a0.kv0<v>",
    ]  # fmt: skip


def test_metrics_by_hand():
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.125, 0.125], [0.1, 0.2, 0.3, 0.4]], dtype=torch.float64))
    even = torch.zeros(2, 4, dtype=torch.float64)
    right, wrong = [[0, -1], [1, 2]], [[1, 2], [3, -1]]
    value = lambda name, **kw: metrics.metric_values(name, logits, right, wrong, **kw).tolist()  # noqa: E731
    assert value("prob_diff") == pytest.approx([0.5 - 0.375, 0.5 - 0.4])
    assert value("logit_diff") == pytest.approx(
        [math.log(0.5) - math.log(0.25 * 0.125) / 2, math.log(0.2 * 0.3) / 2 - math.log(0.4)]
    )
    assert value("nll") == pytest.approx([math.log(2), math.log(2)])
    assert value("accuracy") == [1.0, 0.0]
    entropy = -sum(p * math.log(p) for p in (0.5, 0.25, 0.125, 0.125))
    kl = metrics.metric_values("kl_divergence", logits, right, wrong, reference=even)[0]
    assert float(kl) == pytest.approx(-math.log(4) - sum(math.log(p) for p in (0.5, 0.25, 0.125, 0.125)) / 4)
    kl = metrics.metric_values("kl_divergence", even, right, wrong, reference=logits)[0]
    assert float(kl) == pytest.approx(math.log(4) - entropy)
