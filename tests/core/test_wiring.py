"""What a run of a circuit depends on is what a walk along its edges reaches from both ends."""

import numpy as np
from hypothesis import given

from pipeline.core.graph import Graph
from pipeline.core.wiring import wire
from tests.core.strategies import circuits, drawn
from tests.oracles.reach import alive_receivers, live_senders


@given(circuits)
def test_edges_stay_whose_receiver_has_a_path_to_the_logits(circuit):
    graph, coupled, kept = drawn(circuit)
    expected = kept & alive_receivers(graph, coupled, kept)[graph.edge_receivers]
    np.testing.assert_array_equal(wire(graph, coupled, kept[None], mute=False)[0].mask, expected)


@given(circuits)
def test_where_nodes_without_inputs_are_mute_edges_stay_that_are_reached_from_the_input_too(circuit):
    graph, coupled, kept = drawn(circuit)
    reached = kept & live_senders(graph, coupled, kept)[graph.edge_senders]
    expected = reached & alive_receivers(graph, coupled, reached)[graph.edge_receivers]
    np.testing.assert_array_equal(wire(graph, coupled, kept[None], mute=True)[0].mask, expected)


def test_the_circuit_that_was_given_is_left_as_it_is():
    graph = Graph(2, 2, 1)
    kept = graph.mask(["a0.h1->m0"])
    assert not wire(graph, (False, False), kept[None], mute=True)[0].mask.any()
    assert kept.sum() == 1


def test_a_head_that_nothing_reaches_stays_where_another_head_of_its_layer_changes_it():
    graph = Graph(1, 2, 2)
    kept = graph.mask(["input->a0.h0<q>", "a0.h1->logits"])
    for coupled in (False, True):
        assert wire(graph, (coupled,), kept[None], mute=True)[0].mask.sum() == (2 if coupled else 0)
