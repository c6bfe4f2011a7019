import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.circuit import Circuit
from pipeline.core.errors import CircuitsError
from pipeline.core.graph import Graph
from pipeline.core.scores import EdgeScores, Moments
from tests.core.strategies import graphs

GRAPH = Graph(2, 2, 2)


def scores_of(values, graph=GRAPH, kept=None):
    values = np.asarray(values, dtype=np.float64)
    n = np.where(np.isnan(values), 0, 1)
    return EdgeScores(graph, values, np.where(n > 0, 0.0, np.nan), n, kept=kept)


def writers_behind(receiver, graph):
    """Names of the senders whose output a receiver changes, from its name alone."""
    name, _, _ = receiver.partition("<")
    if name == "logits":
        return []
    if ".kv" in name:
        layer, group = name[1:].split(".kv")
        size = graph.n_heads // graph.n_kv_heads
        return [f"a{layer}.h{int(group) * size + i}" for i in range(size)]
    return [name]


def edges_on_a_path(circuit):
    """Names of the edges on some path from input to logits, by walking from both ends."""
    edges = [name.split("->") for name in circuit.edge_names]
    forward, backward = {"input"}, set()
    for _ in edges:
        for sender, receiver in edges:
            if sender in forward:
                forward |= set(writers_behind(receiver, circuit.graph))
    for _ in edges:
        for sender, receiver in edges:
            if receiver == "logits" or backward & set(writers_behind(receiver, circuit.graph)):
                backward.add(sender)
    return {
        f"{sender}->{receiver}"
        for sender, receiver in edges
        if sender in forward
        and (receiver == "logits" or backward & set(writers_behind(receiver, circuit.graph)))
    }


@given(graphs(max_layers=2), st.integers(0, 1000), st.floats(0.02, 0.6))
def test_pruning_keeps_exactly_the_edges_on_a_path_from_input_to_logits(graph, seed, density):
    mask = np.random.default_rng(seed).random(graph.n_edges) < density
    circuit = Circuit(graph, mask)

    assert set(circuit.pruned.edge_names) == edges_on_a_path(circuit)


@given(graphs(max_layers=2))
def test_the_whole_graph_has_nothing_to_prune(graph):
    assert Circuit(graph, np.ones(graph.n_edges, dtype=bool)).pruned.n_edges == graph.n_edges


def test_a_chain_with_a_missing_link_prunes_to_nothing():
    circuit = Circuit(GRAPH, GRAPH.mask(["input->m0", "a0.h0->m1", "m1->logits"]))

    assert circuit.pruned.n_edges == 0


def test_a_head_stays_when_any_one_of_its_ports_is_fed():
    names = ("input->a1.h0<q>", "a1.h0->logits")

    assert Circuit(GRAPH, GRAPH.mask(list(names))).pruned.edge_names == names


def test_a_shared_key_port_stays_for_whichever_of_its_heads_goes_on():
    graph = Graph(1, 4, 2, kv="kv_head")
    names = ("input->a0.kv1<k>", "a0.h3->logits")

    assert Circuit(graph, graph.mask(list(names))).pruned.edge_names == names
    assert Circuit(graph, graph.mask(["input->a0.kv1<k>", "a0.h0->logits"])).pruned.n_edges == 0


edge_values = st.lists(
    st.one_of(st.just(np.nan), st.integers(-4, 4).map(float)), min_size=GRAPH.n_edges, max_size=GRAPH.n_edges
)


@given(edge_values, st.integers(0, GRAPH.n_edges))
def test_the_top_edges_are_the_largest_measured_ones(values, top):
    circuit = Circuit.from_scores(scores_of(values), top=top)

    measured = sorted((abs(v) for v in values if not np.isnan(v)), reverse=True)
    chosen = [abs(values[i]) for i in np.flatnonzero(circuit.mask)]
    assert sorted(chosen, reverse=True) == measured[:top]


@given(edge_values, st.integers(-4, 4))
def test_a_threshold_keeps_what_reaches_it_and_nothing_unmeasured(values, threshold):
    absolute = Circuit.from_scores(scores_of(values), threshold=threshold)
    signed = Circuit.from_scores(scores_of(values), threshold=threshold, rank="signed")

    assert absolute.mask.tolist() == [not np.isnan(v) and abs(v) >= threshold for v in values]
    assert signed.mask.tolist() == [not np.isnan(v) and v >= threshold for v in values]


def test_without_a_number_the_decided_set_is_the_circuit():
    kept = np.arange(GRAPH.n_edges) % 3 == 0

    circuit = Circuit.from_scores(scores_of(np.ones(GRAPH.n_edges), kept=kept))

    np.testing.assert_array_equal(circuit.mask, kept)
    assert [edge.id for edge in circuit] == np.flatnonzero(kept).tolist()
    assert len(circuit) == circuit.n_edges == int(kept.sum())


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({}, "decide nothing"),
        ({"top": 1, "threshold": 0.1}, "not by both"),
        ({"top": -1}, "top=-1"),
        ({"top": 10_000}, "top=10000"),
    ],
)
def test_a_selection_that_means_nothing_is_refused(how, message):
    with pytest.raises(CircuitsError, match=message):
        Circuit.from_scores(scores_of(np.ones(GRAPH.n_edges)), **how)


def test_a_mask_of_the_wrong_length_or_type_is_refused():
    for mask in (np.ones(3, dtype=bool), np.ones(GRAPH.n_edges, dtype=np.int64)):
        with pytest.raises((ValueError, TypeError)):
            Circuit(GRAPH, mask)


def test_the_leaderboard_file_holds_all_edges_with_score_and_membership():
    graph = Graph(2, 2, 1, d_model=16)  # grouped heads, but every query head has its own ports
    values = np.linspace(-1, 1, graph.n_edges)
    values[0] = np.nan
    circuit = Circuit.from_scores(scores_of(values, graph), top=5)

    text = json.dumps(circuit.to_mib_json(), allow_nan=False)  # strict JSON
    file = json.loads(text)

    assert set(file) == {"cfg", "nodes", "edges"}
    assert file["cfg"] == {"n_layers": 2, "n_heads": 2, "parallel_attn_mlp": False, "d_model": 16}
    assert set(file["edges"]) == set(graph.edge_names)
    assert {name for name, edge in file["edges"].items() if edge["in_graph"]} == set(circuit.edge_names)
    assert file["edges"][graph.edge_names[0]] == {"score": 0.0, "in_graph": False}
    assert file["edges"][graph.edge_names[-1]] == {"score": 1.0, "in_graph": True}
    assert set(file["nodes"]) == {node.name for node in graph.nodes}
    in_graph = {name for name, node in file["nodes"].items() if node["in_graph"]}
    assert in_graph == {name.split("->")[0] for name in circuit.edge_names} | {"logits"}


def test_rows_and_columns_of_the_graph_are_those_of_the_leaderboards_score_matrix():
    """Their tensors have a row per sender and a column per receiver: layer by layer q, k, v, then the MLP."""
    graph = Graph(3, 2, 2)
    n_layers, heads = graph.n_layers, graph.n_heads
    for layer in range(n_layers):
        assert graph.mlp_sender(layer) == 1 + layer * (heads + 1) + heads
        assert graph.mlp_receiver(layer) == layer * (3 * heads + 1) + 3 * heads
        for head in range(heads):
            assert graph.head_sender(layer, head) == 1 + layer * (heads + 1) + head
            for which, port in enumerate("qkv"):
                column = layer * (3 * heads + 1) + which * heads + head
                assert graph.head_receiver(layer, port, head) == column
    assert graph.n_senders == 1 + n_layers * (heads + 1)
    assert graph.logits_receiver == graph.n_receivers - 1 == n_layers * (3 * heads + 1)


def test_merged_scores_select_the_circuit_of_all_prompts():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(10, GRAPH.n_edges))
    parts = [EdgeScores.from_moments(GRAPH, Moments.of(part)) for part in np.split(values, [3, 7])]

    circuit = Circuit.from_scores(EdgeScores.merge(parts), top=5)

    expected = np.argsort(-np.abs(values.mean(axis=0)))[:5]
    assert set(np.flatnonzero(circuit.mask)) == set(expected)
