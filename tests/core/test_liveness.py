"""What is alive, and where it is needed, is what a walk along all kept edges says."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.graph import Graph
from pipeline.core.liveness import Liveness
from tests.core.strategies import circuits, drawn
from tests.oracles.reach import alive_receivers, changed, paths_from


def decided(graph, coupled, kept, visited=None):
    """The liveness once every receiver that is alive was decided, from the last to the first or until `visited`."""
    liveness = Liveness(graph, coupled)
    for receiver in reversed(range(graph.n_receivers)):
        if receiver == visited:
            break
        if liveness.alive(receiver):
            edges = graph.edges_into(receiver)
            liveness = liveness.keeping(receiver, np.flatnonzero(kept[edges]).tolist())
    return liveness


@given(circuits)
def test_a_receiver_is_alive_if_what_it_changes_has_a_path_to_the_logits(circuit):
    graph, coupled, kept = drawn(circuit)
    liveness = decided(graph, coupled, kept)
    paths = [paths_from(graph, coupled, kept, sender) for sender in range(graph.n_senders)]
    for receiver in range(graph.n_receivers - 1):
        reached = any(paths[sender] for sender in changed(graph, coupled, receiver))
        assert liveness.alive(receiver) == reached, graph.receivers[receiver].name
    assert liveness.alive(graph.logits_receiver)
    assert {sender for sender, found in enumerate(paths) if found} == set(liveness.readers)


@given(circuits)
def test_a_sender_is_needed_everywhere_if_a_path_of_it_or_its_layer_passes_a_key_or_a_value(circuit):
    graph, coupled, kept = drawn(circuit)
    liveness = decided(graph, coupled, kept)
    everywhere = set()
    for index, node in enumerate(graph.senders):
        if True in paths_from(graph, coupled, kept, index):
            together = node.kind == "head" and coupled[node.layer]
            everywhere |= {
                other
                for other, peer in enumerate(graph.senders)
                if other == index or (together and (peer.kind, peer.layer) == ("head", node.layer))
            }
    assert liveness.everywhere == everywhere
    for receiver in range(graph.n_receivers):
        key_or_value = graph.receivers[receiver].port in ("k", "v")
        feeds = any(sender in everywhere for sender in changed(graph, coupled, receiver))
        assert liveness.needs_all_rows(receiver) == (key_or_value or feeds)


@given(circuits, st.data())
def test_nothing_that_is_decided_later_changes_whether_a_receiver_is_alive(circuit, data):
    graph, coupled, kept = drawn(circuit)
    receiver = data.draw(st.integers(0, graph.n_receivers - 1))
    then, at_the_end = decided(graph, coupled, kept, receiver), decided(graph, coupled, kept)
    assert then.alive(receiver) == at_the_end.alive(receiver)
    assert then.needs_all_rows(receiver) == at_the_end.needs_all_rows(receiver)


@given(circuits)
def test_readers_are_all_alive_receivers_that_kept_the_edge_once_each(circuit):
    graph, coupled, kept = drawn(circuit)
    liveness = decided(graph, coupled, kept)
    alive = alive_receivers(graph, coupled, kept)
    found = sorted((s, r) for s, readers in liveness.readers.items() for r in readers)
    edges = np.flatnonzero(kept & alive[graph.edge_receivers])
    expected = sorted(
        zip(graph.edge_senders[edges].tolist(), graph.edge_receivers[edges].tolist(), strict=True)
    )
    assert found == expected


def test_decisions_make_a_new_liveness_and_leave_the_old_one():
    graph = Graph(1, 2, 2)
    before = Liveness(graph, (False,))
    one, other = (before.keeping(graph.logits_receiver, [graph.head_sender(0, head)]) for head in (0, 1))
    query = graph.head_receiver(0, "q")
    assert [liveness.alive(query) for liveness in (before, one, other)] == [False, True, False]


def test_heads_of_a_coupled_layer_live_and_are_needed_together():
    graph = Graph(2, 2, 2)
    for coupled in (False, True):
        liveness = Liveness(graph, (coupled, False))
        liveness = liveness.keeping(graph.logits_receiver, [graph.head_sender(1, 0)])
        liveness = liveness.keeping(graph.head_receiver(1, "v", 0), [graph.head_sender(0, 1)])
        assert liveness.alive(graph.head_receiver(0, "q", 1))
        assert liveness.alive(graph.head_receiver(0, "q", 0)) == coupled
        assert liveness.needs_all_rows(graph.head_receiver(0, "q", 0)) == coupled
        assert (graph.head_sender(0, 0) in liveness.everywhere) == coupled
