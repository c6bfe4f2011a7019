"""Models with a norm after attention, under both readings of what a head writes, against the dense definition."""

import numpy as np
import pytest

from pipeline.ablations import collect_statistics, needs_statistics
from pipeline.evaluation import circuit_values
from pipeline.methods import Acdc, Eap, EapIg, EdgePatching, NodePatching, PathPatching
from tests.exactness import assert_same_circuit, relative_error
from tests.oracles import attribution
from tests.slowly import slow

SLOW = pytest.mark.slow
CASES = (
    ("gemma2", "query_head", "own"),
    ("olmo2", "kv_head", "mixed"),
)
SLOW_CASES = (
    ("gemma2", "kv_head", "mixed"),
    ("gemma2", "query_head", "mixed"),
    ("gemma3", "query_head", "mixed"),
    ("gemma3", "kv_head", "own"),
    ("olmo2", "kv_head", "own"),
    ("olmo2", "query_head", "mixed"),
)


@pytest.fixture(params=[*CASES, *(pytest.param(case, marks=SLOW) for case in SLOW_CASES)], ids="-".join)
def setting(setting_of, request):
    kind, kv, post_norm = request.param
    return setting_of(kind, kv=kv, post_norm=post_norm, padding="left")


def scored(method, setting, **options):
    statistics = None
    if needs_statistics(options.get("ablation", "corrupted")):
        statistics = collect_statistics(setting.model, [setting.batch])
    return method.score(setting.model, [setting.batch], statistics=statistics, **options)


@pytest.mark.parametrize("ablation", [*slow("corrupted", "zero"), "mean"])
def test_a_circuit_is_run_as_it_is_defined(setting, ablation):
    graph, rng = setting.graph, np.random.default_rng(0)
    masks = np.stack([rng.random(graph.n_edges) < share for share in (0.1, 0.5, 0.9)])
    statistics = None
    if needs_statistics(ablation):
        statistics = collect_statistics(setting.model, [setting.batch])
    found = circuit_values(
        setting.model, [setting.batch], masks, metric="logit_diff", ablation=ablation, statistics=statistics
    )
    every, none = np.ones(graph.n_edges, dtype=bool), np.zeros(graph.n_edges, dtype=bool)
    expected = [
        setting.values("logit_diff", setting.patched(kept, ablation)).numpy()
        for kept in (every, none, *masks)
    ]
    assert relative_error(found, expected) <= 1e-10


def test_attribution_multiplies_what_a_reader_meets_by_its_gradient(setting):
    p, ablated = setting.prompts, setting.ablated("corrupted")

    def harm(logits):
        return setting.harm("logit_diff", logits)

    found = scored(Eap(), setting, per_prompt=True).per_prompt
    assert relative_error(found, attribution.eap(setting.dense, p.clean, p.mask, ablated, harm)) <= 1e-10
    found = scored(EapIg(steps=2), setting, per_prompt=True).per_prompt
    expected = attribution.eap_ig(setting.dense, p.clean, p.corrupted, p.mask, ablated, harm, 2, EapIg().rule)
    assert relative_error(found, expected) <= 1e-10


@pytest.mark.parametrize("direction", ["noising", "denoising"])
def test_patching_an_edge_or_a_node_is_a_run_of_all_the_other_edges(setting, direction):
    graph, p = setting.graph, setting.prompts
    sign, base, other = 1, setting.clean, setting.corrupted
    ids = p.clean
    if direction == "denoising":
        sign, base, other, ids = -1, other, base, p.corrupted
    before = setting.harm("logit_diff", base.logits)

    def effect(kept):
        logits = setting.dense.forward(ids, p.mask, kept, other.outputs).logits
        return sign * (setting.harm("logit_diff", logits) - before).numpy()

    edges = np.arange(graph.n_edges)[:: 1 if graph.n_edges < 200 else 3]
    found = scored(EdgePatching(direction=direction), setting, per_prompt=True).per_prompt
    expected = np.stack([effect(np.arange(graph.n_edges) != edge) for edge in edges], 1)
    assert relative_error(found[:, edges], expected) <= 1e-10
    nodes = scored(NodePatching(direction=direction), setting).score
    expected = [effect(graph.edge_senders != sender).mean() for sender in range(graph.n_senders)]
    assert relative_error(nodes, expected) <= 1e-10


def test_paths_to_a_set_of_receivers_are_its_edges_removed_together(setting):
    graph, names = setting.graph, ["m0", "a1.h2<q>", "m1", "logits"]
    found = scored(PathPatching(receivers=names), setting)
    clean, expected = setting.harm("logit_diff", setting.clean.logits), []
    for sender in found.node:
        kept = np.ones(graph.n_edges, dtype=bool)
        for name in names:
            receiver = graph.receiver_index(name)
            if sender < graph.senders_read[receiver]:
                kept[graph.first_edge[receiver] + sender] = False
        expected.append(float((setting.harm("logit_diff", setting.patched(kept)) - clean).mean()))
    assert relative_error(found.score, expected) <= 1e-10


@pytest.mark.parametrize("threshold", [*slow(0.003), 0.1])
def test_acdc_keeps_what_one_forward_per_edge_keeps(setting, naive, threshold):
    found = scored(Acdc(threshold=threshold), setting, metric="kl_divergence")
    assert_same_circuit(found, naive(setting, "kl_divergence", threshold), setting.graph)


def test_eap_as_mib_multiplies_the_gradient_by_the_change_in_front_of_the_norm(setting_of):
    setting = setting_of("gemma2", padding="left", post_norm="mib")
    p, dense = setting.prompts, setting.dense
    embeddings = dense.embed(p.clean, p.mask)
    gradient = attribution.receiver_gradients(
        dense, p.clean, p.mask, embeddings, lambda logits: setting.harm("logit_diff", logits)
    )
    change = setting.corrupted.outputs - setting.clean.outputs
    found = scored(Eap(), setting, per_prompt=True).per_prompt
    assert relative_error(found, attribution.edge_scores(dense, change, gradient)) <= 1e-10
    mixed = setting_of("gemma2", padding="left")
    for method in (EdgePatching(), Acdc(threshold=0.1)):
        one, two = (scored(method, one).score for one in (setting, mixed))
        np.testing.assert_array_equal(one, two)


def test_definitions_agree_where_no_edge_or_every_edge_is_exchanged_and_nowhere_else(setting_of):
    own, mixed = (setting_of("gemma2", padding="left", post_norm=post_norm) for post_norm in ("own", "mixed"))
    graph, rng = own.graph, np.random.default_rng(0)
    for share in (1.0, 0.0, 0.5):
        kept = rng.random(graph.n_edges) < share
        one, two = (circuit_values(setting.model, [setting.batch], kept[None])[2] for setting in (own, mixed))
        assert (relative_error(one, two) <= 1e-10) == (share in (0.0, 1.0))


def test_models_without_such_norms_have_one_definition(setting_of):
    own, mixed = (setting_of("llama", post_norm=post_norm) for post_norm in ("own", "mixed"))
    scores = [Eap().score(setting.model, [setting.batch]).score for setting in (own, mixed)]
    np.testing.assert_array_equal(*scores)
