"""Names and patterns stand for the receivers and heads that a person would list by hand."""

import pytest

from pipeline.core.errors import ConfigError
from pipeline.core.graph import Graph
from pipeline.core.naming import heads_named, receivers_named

GRAPH = Graph(2, 4, 2)
GROUPED = Graph(2, 4, 2, kv="kv_head")


def receivers(graph, *names):
    return [graph.receivers[index].name for index in receivers_named(graph, names)]


def test_a_receiver_goes_by_its_name_and_comes_once_in_the_order_of_reading():
    assert receivers(GRAPH, "logits", "m0", "a1.h3<k>", "m0") == ["m0", "a1.h3<k>", "logits"]


def test_a_head_is_all_that_it_reads():
    assert receivers(GRAPH, "a1.h3") == ["a1.h3<q>", "a1.h3<k>", "a1.h3<v>"]
    assert receivers(GROUPED, "a1.h3") == ["a1.h3<q>", "a1.kv1<k>", "a1.kv1<v>"]
    assert receivers(GROUPED, "a1.kv0") == ["a1.kv0<k>", "a1.kv0<v>"]


def test_patterns_stand_for_all_that_fit():
    assert receivers(GRAPH, "m*") == ["m0", "m1"]
    assert receivers(GRAPH, "a?.h0<v>") == ["a0.h0<v>", "a1.h0<v>"]
    assert len(receivers(GRAPH, "a1.*")) == 12
    assert len(receivers(GROUPED, "a1.*")) == 8
    assert len(receivers(GRAPH, "*")) == GRAPH.n_receivers


def test_heads_are_senders():
    assert heads_named(GRAPH, ("a1.h*", "a0.h2")) == (
        GRAPH.head_sender(0, 2),
        *(GRAPH.head_sender(1, h) for h in range(4)),
    )


@pytest.mark.parametrize(
    ("find", "name", "near"),
    [
        (receivers_named, "a1.h4<q>", r"no receiver .* did you mean 'a1.h3<q>'\?"),
        (receivers_named, "a9.*", r"no receiver 'a9\.\*' in this graph \(2 layers"),
        (receivers_named, "", "they are called as 'a0.h0<q>' is"),
        (heads_named, "m0", "no head 'm0'"),
        (heads_named, "a1.h0<q>", r"did you mean 'a1.h0'\?"),
    ],
)
def test_a_name_of_none_is_refused_with_the_nearest(find, name, near):
    with pytest.raises(ConfigError, match=near):
        find(GRAPH, (name,))
