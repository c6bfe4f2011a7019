"""Circuits in other people's words: out and in again, grouped heads both ways, and what is refused."""

import json
import math
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.core.circuit import Circuit
from pipeline.core.errors import CircuitsError
from pipeline.core.exported import dot, graphml, mib_json, shares, to_networkx
from pipeline.core.foreign import read_circuit
from pipeline.core.graph import Graph

GRAPHS = {
    "all heads alike": Graph(2, 4, 4, d_model=8),
    "parallel": Graph(2, 4, 2, parallel=True, d_model=8),
    "query heads of groups": Graph(2, 6, 2, d_model=8),
    "groups of three": Graph(2, 6, 2, kv="kv_head", d_model=8),
    "groups of one": Graph(1, 2, 2, kv="kv_head"),
}


@pytest.fixture(params=GRAPHS)
def known(request):
    graph, rng = GRAPHS[request.param], np.random.default_rng(7)
    return graph, rng.random(graph.n_edges) < 0.3, rng.normal(size=graph.n_edges)


def test_what_goes_out_comes_in_with_the_same_bits(known):
    graph, mask, score = known
    back = read_circuit(json.dumps(mib_json(graph, mask, score)), "x.json", graph)
    np.testing.assert_array_equal(back.score, score)
    np.testing.assert_array_equal(back.mask, mask)


def test_a_grouped_edge_is_the_edges_of_its_query_heads_and_their_scores_add_up():
    graph, theirs = GRAPHS["groups of three"], GRAPHS["query heads of groups"]
    mask = np.zeros(graph.n_edges, dtype=bool)
    mask[graph.edge_id("m0->a1.kv1<k>")] = True
    score = np.arange(graph.n_edges, dtype=float)
    said = mib_json(graph, mask, score)
    assert list(said["edges"]) == list(theirs.edge_names)
    inside = [name for name, edge in said["edges"].items() if edge["in_graph"]]
    assert inside == ["m0->a1.h3<k>", "m0->a1.h4<k>", "m0->a1.h5<k>"]
    assert math.fsum(said["edges"][name]["score"] for name in inside) == score[mask].item()
    wide = read_circuit("edge,score\nm0->a1.kv1<k>,6\n", "x.csv", theirs)
    assert {theirs.edge_name(int(e)): wide.score[e] for e in np.flatnonzero(wide.mask)} == dict.fromkeys(
        inside, 2.0
    )


@given(
    st.floats(allow_nan=False, allow_infinity=False, width=64, min_value=-1e300, max_value=1e300),
    st.integers(1, 8),
)
@example(7.439244110724624e-115, 6)  # a rest that was rounded twice did not
def test_equal_shares_add_up_to_the_bit(score, n):
    parts = shares(score, n)
    assert len(parts) == n
    assert math.fsum(parts) == score


def test_a_list_of_some_edges_is_the_circuit_of_these():
    graph = GRAPHS["all heads alike"]
    found = read_circuit("sender,receiver,score\ninput,logits,-0.5\nm0,a1.h2<v>,\n", "x.csv", graph)
    names = [graph.edge_name(int(edge)) for edge in np.flatnonzero(found.mask)]
    assert sorted(names) == ["input->logits", "m0->a1.h2<v>"]
    assert found.score[graph.edge_id("input->logits")] == -0.5
    assert np.isnan(found.score).sum() == graph.n_edges - 1


def test_a_list_of_all_edges_with_scores_is_no_circuit():
    graph = GRAPHS["groups of one"]
    rows = "".join(f"{name},1\n" for name in graph.edge_names)
    assert read_circuit(f"edge,score\n{rows}", "x.csv", graph).mask is None


def test_scores_that_were_not_measured_elsewhere_are_none_here():
    graph = GRAPHS["all heads alike"]
    said = json.dumps({"edges": {"input->logits": {"score": math.nan, "in_graph": True}}})
    found = read_circuit(said, "x.json", graph)
    assert np.isnan(found.score).all()
    assert found.mask.sum() == 1


@pytest.mark.parametrize(
    ("where", "text", "message"),
    [
        ("a.json", "[", "a.json: "),
        ("a.json", "[1]", "a.json: has 1 for an edge; give its name"),
        (
            "a.json",
            '{"nodes": {}}',
            "a.json: is nothing that EAP-IG, ACDC or auto-circuit write: needs edges",
        ),
        ("a.json", '{"edges": {}}', "a.json: lists no edge"),
        (
            "a.json",
            '{"cfg": {"n_layers": 12}, "edges": {}}',
            "a.json: is of a model with n_layers 12; here it is 2",
        ),
        ("a.json", '{"cfg": {"d_model": 768}, "edges": {}}', "d_model 768; here it is 8"),
        ("a.json", '{"edges": {"m9->logits": {"score": 1}}}', "no sender 'm9'"),
        ("a.json", '{"edges": {"m1->m0": {"score": 1}}}', "m0 does not read m1"),
        ("a.json", '{"edges": {"m0->a1.h6<k>": {"score": 1}}}', "no edge 'm0->a1.h6<k>'"),
        ("a.json", '{"edges": {"m0->logits": {"score": "1"}}}', "score '1', which is no number"),
        ("a.json", '{"edges": {"m0->logits": {"score": Infinity}}}', "score inf, which is no number"),
        ("a.json", '{"edges": {"m0->logits": {"in_graph": 1}}}', "in_graph 1; give true or false"),
        ("a.json", '{"edges": {"m0->a1.h0<k>": {"score": 1}}}', "some of the query heads of 'm0->a1.kv0<k>'"),
        ("a.csv", "from,to\na,b\n", "a.csv: needs a column edge"),
        ("a.csv", "edge,score\nm0->logits,x\n", "a.csv: line 2 has the score 'x'"),
        ("a.csv", "edge,score\nm0->logits\n", "a.csv: line 2 has another number of cells"),
        ("a.csv", "edge,kept\nm0->logits,maybe\n", "line 2 has kept 'maybe'; give true or false"),
        (
            "a.csv",
            "edge\nm0->logits\nm0->logits\n",
            "a.csv: line 3: 'm0->logits' is there twice; leave one out",
        ),
        ("a.csv", "edge\nm0->logits\nMLP 0->Resid End\n", "line 3: 'MLP 0->Resid End' is there twice"),
        ("a.csv", "edge\n\nm7->logits\n", "a.csv: line 3: 'm7->logits' is not in this model: no sender 'm7'"),
        ("a.json", '{"edges": {\n "m7->logits": {}}}', "a.json: line 2: 'm7->logits' is not in this model"),
        ("a.csv", "edge,span\nm0->logits,io\n", "line 2 is of the span 'io'"),
    ],
)
def test_what_is_none_of_this_graph_is_refused_in_one_line(where, text, message):
    with pytest.raises(CircuitsError) as caught:
        read_circuit(text, where, GRAPHS["groups of three"])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_heads_of_a_group_that_differ_are_refused():
    marks = {f"m0->a1.h{head}<k>": {"in_graph": head == 0} for head in range(3)}
    with pytest.raises(CircuitsError, match=r"model\.kv: query_head"):
        read_circuit(json.dumps({"edges": marks}), "x.json", GRAPHS["groups of three"])


def test_networkx_has_the_circuits_edges_between_heads_and_none_of_the_others(known):
    graph, mask, score = known
    made = to_networkx(graph, mask, score)
    edges = {about["edge"]: about for *_, about in made.edges(data=True) if about["kind"] == "edge"}
    assert set(edges) == {graph.edge_name(int(edge)) for edge in np.flatnonzero(mask)}
    assert all(about["score"] == score[graph.edge_id(name)] for name, about in edges.items())
    assert Circuit(graph, mask, score).to_networkx().number_of_edges() == made.number_of_edges()
    for _, reader, about in made.edges(data=True):
        if graph.kv == "kv_head" and about.get("port") in ("k", "v"):
            fed = {head for _, head, how in made.out_edges(reader, data=True) if how["kind"] == "group"}
            assert len(fed) == graph.n_heads // graph.n_kv_heads


def test_graphml_and_dot_hold_every_edge_of_the_circuit(known):
    graph, mask, score = known
    made = to_networkx(graph, mask, score)
    space = "{http://graphml.graphdrawing.org/xmlns}"
    assert len(list(ET.fromstring(graphml(made)).iter(f"{space}edge"))) == made.number_of_edges()
    lines = dot(made).splitlines()
    assert sum("->" in line and "[" in line for line in lines) == made.number_of_edges()
    assert (lines[0], lines[-1]) == ("digraph circuit {", "}")
