import numpy as np
import pytest
from hypothesis import given

from pipeline.core.errors import CircuitsError
from pipeline.core.graph import Graph
from tests.core.strategies import edge_names_by_rule, graphs


@given(graphs())
def test_the_edges_are_exactly_those_from_earlier_writers_to_later_readers(graph):
    names = graph.edge_names

    assert len(set(names)) == len(names) == graph.n_edges
    assert set(names) == edge_names_by_rule(graph)


@given(graphs())
def test_an_edge_id_its_name_its_ends_and_its_slice_agree(graph):
    for edge_id, name in enumerate(graph.edge_names):
        edge = graph.edge(edge_id)
        into = graph.edges_into(int(graph.edge_receivers[edge_id]))

        assert graph.edge_id(name) == edge_id == edge.id
        assert edge.name == graph.edge_name(edge_id) == name
        assert edge_id in range(into.start, into.stop)
        assert edge.sender == graph.senders[edge_id - into.start]


@given(graphs())
def test_receivers_own_consecutive_slices_that_cover_all_edges(graph):
    stops = 0
    for receiver in range(graph.n_receivers):
        into = graph.edges_into(receiver)
        assert into.start == stops
        stops = into.stop
    assert stops == graph.n_edges == int(graph.senders_read.sum())


@given(graphs())
def test_index_arithmetic_finds_the_nodes_that_the_names_say(graph):
    for layer in range(graph.n_layers):
        assert graph.senders[graph.mlp_sender(layer)].name == f"m{layer}"
        assert graph.receivers[graph.mlp_receiver(layer)].name == f"m{layer}"
        for head in range(graph.n_heads):
            assert graph.senders[graph.head_sender(layer, head)].name == f"a{layer}.h{head}"
            assert graph.receivers[graph.head_receiver(layer, "q", head)].name == f"a{layer}.h{head}<q>"
        for port in ("k", "v"):
            for head in range(graph.n_ports):
                name = f"a{layer}.{'kv' if graph.kv == 'kv_head' else 'h'}{head}<{port}>"
                assert graph.receivers[graph.head_receiver(layer, port, head)].name == name
    assert graph.receivers[graph.logits_receiver].name == "logits"


@given(graphs())
def test_every_query_head_is_fed_once_by_each_of_its_ports(graph):
    for layer in range(graph.n_layers):
        for port in ("q", "k", "v"):
            ports = graph.n_heads if port == "q" else graph.n_ports
            fed = [
                sender
                for head in range(ports)
                for sender in graph.senders_fed_by(graph.head_receiver(layer, port, head))
            ]
            assert fed == [graph.head_sender(layer, head) for head in range(graph.n_heads)]
        assert list(graph.senders_fed_by(graph.mlp_receiver(layer))) == [graph.mlp_sender(layer)]
    assert len(graph.senders_fed_by(graph.logits_receiver)) == 0


@pytest.mark.parametrize(
    ("graph", "edges"),
    [
        (Graph(12, 12, 12), 32_491),  # GPT-2 small
        (Graph(32, 32, 8), 1_592_881),  # Llama-3-8B, every query head on its own
        (Graph(32, 32, 8, kv="kv_head"), 805_681),  # and by the model's own groups
        (Graph(1, 1, 1), 8),  # input to q, k, v, m, logits; head to m, logits; m to logits
        (Graph(1, 1, 1, parallel=True), 7),  # without the head to the MLP
    ],
)
def test_edge_counts_of_known_models(graph, edges):
    assert graph.n_edges == edges


def test_gpt2_small_has_158_nodes():
    nodes = Graph(12, 12, 12).nodes

    assert len(nodes) == 158
    assert (nodes[0].name, nodes[-1].name) == ("input", "logits")


@given(graphs())
def test_parallel_blocks_lack_exactly_the_edges_from_heads_to_their_own_mlp(graph):
    sequential = Graph(graph.n_layers, graph.n_heads, graph.n_kv_heads, kv=graph.kv)
    parallel = Graph(graph.n_layers, graph.n_heads, graph.n_kv_heads, kv=graph.kv, parallel=True)

    missing = set(sequential.edge_names) - set(parallel.edge_names)

    assert missing == {
        f"a{layer}.h{head}->m{layer}" for layer in range(graph.n_layers) for head in range(graph.n_heads)
    }


@given(graphs(), graphs())
def test_equal_graphs_and_only_they_share_a_fingerprint(one, other):
    assert (one.fingerprint == other.fingerprint) == (one == other)


def test_the_width_of_the_model_is_no_part_of_the_graph():
    assert Graph(2, 4, 4, d_model=64) == Graph(2, 4, 4, d_model=128)
    assert Graph(2, 4, 4, d_model=64).fingerprint == Graph(2, 4, 4, d_model=128).fingerprint


def test_a_mask_is_true_for_the_named_edges_alone():
    graph = Graph(2, 2, 2)
    names = ["input->logits", "a0.h1->a1.h0<v>"]

    mask = graph.mask(names)

    assert {graph.edge_names[i] for i in np.flatnonzero(mask)} == set(names)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a0.h0", "is no edge"),
        ("a9.h0->logits", "no sender 'a9.h0'"),
        ("input->a0.h0", "no receiver 'a0.h0'"),
        ("m1->m0", "m0 does not read m1"),
        ("a0.h0->a0.h1<q>", "does not read"),
        ("logits->m0", "no sender 'logits'"),
    ],
)
def test_a_name_outside_of_the_graph_is_refused_by_name(name, message):
    with pytest.raises(CircuitsError, match=message):
        Graph(2, 2, 2).edge_id(name)


@pytest.mark.parametrize("sizes", [(0, 1, 1), (1, 0, 1), (1, 4, 3), (1, 2, 4)])
def test_impossible_sizes_are_refused(sizes):
    with pytest.raises(ValueError, match="cannot share"):
        Graph(*sizes)
