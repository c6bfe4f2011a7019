"""What EAP-IG, ACDC and auto-circuit write, as they write it: read into our graph, and written back as it was."""

import json
import math
from io import BytesIO
from itertools import product

import numpy as np
import pytest
import torch

from pipeline.core.errors import CircuitsError
from pipeline.core.exported import acdc_json, auto_circuit_json, mib_json
from pipeline.core.foreign import read_circuit, read_data
from pipeline.core.graph import Graph
from pipeline.models.saved import read_saved

GRAPHS = {
    "all heads alike": Graph(2, 3, 3, d_model=6),
    "parallel": Graph(2, 4, 4, parallel=True, d_model=8),
    "groups of two": Graph(2, 4, 2, kv="kv_head", d_model=8),
}


@pytest.fixture(params=GRAPHS)
def graph(request):
    return GRAPHS[request.param]


def saved(data):
    file = BytesIO()
    torch.save(data, file)
    return read_saved(file.getvalue())


def in_order(graph):
    """Every edge of theirs as (our name, sender's place, layer and head, receiver's layer, head and port); None for the
    ends. Built from layers and heads alone."""
    heads, writes = graph.n_heads, [(None, None)]
    for layer in range(graph.n_layers):
        block = [*writes]
        for head, port in product(range(heads), "qkv"):
            yield from ((n, one, (layer, head, port)) for n, one in enumerate(block))
        writes += [(layer, head) for head in range(heads)]
        into_mlp = block if graph.parallel else writes
        yield from ((n, one, (layer, None, "mlp")) for n, one in enumerate([*into_mlp]))
        writes.append((layer, None))
    yield from ((n, one, (None, None, "logits")) for n, one in enumerate(writes))


def our_name(sender, receiver):
    layer, head = sender
    writes = "input" if layer is None else f"m{layer}" if head is None else f"a{layer}.h{head}"
    to, head, port = receiver
    return f"{writes}->" + {"mlp": f"m{to}", "logits": "logits"}.get(port, f"a{to}.h{head}<{port}>")


def drawn(graph, seed=0):
    """A score and a membership of every edge of theirs, alike within a group of query heads."""
    rng, group, known, found = np.random.default_rng(seed), graph.n_heads // graph.n_kv_heads, {}, {}
    for _, sender, (layer, head, port) in in_order(graph):
        shared = head // group if port in "kv" and graph.kv == "kv_head" else head
        key = sender, layer, shared, port
        known.setdefault(key, (float(np.float32(rng.normal())), bool(rng.random() < 0.4)))
        found[our_name(sender, (layer, head, port))] = known[key]
    return found


def test_the_test_counts_their_edges_as_eap_ig_does():
    assert len(list(in_order(Graph(12, 12, 12)))) == 32_491


# --- EAP-IG ------------------------------------------------------------------------------------------------


def as_pt(graph, said):
    """The dict that EAP-IG's `Graph.to_pt` saves, by the formulas of its indices."""
    n, heads = graph.n_layers, graph.n_heads
    shape = 1 + n * (heads + 1), n * (3 * heads + 1) + 1
    scores, inside = torch.zeros(shape), torch.zeros(shape, dtype=torch.bool)
    for row, sender, (layer, head, port) in in_order(graph):
        at = -1 if layer is None else layer * (3 * heads + 1)
        if port == "mlp":
            at += 3 * heads
        elif layer is not None:
            at += "qkv".index(port) * heads + head
        name = our_name(sender, (layer, head, port))
        scores[row, at], inside[row, at] = said[name]
    sources = ["input"]
    for layer in range(n):
        sources += [*(f"a{layer}.h{head}" for head in range(heads)), f"m{layer}"]
    readers = []
    for layer in range(n):
        readers += [f"a{layer}.h{head}<{port}>" for port, head in product("qkv", range(heads))] + [
            f"m{layer}"
        ]
    cfg = {"n_layers": n, "n_heads": heads, "parallel_attn_mlp": graph.parallel, "d_model": graph.d_model}
    return {
        "cfg": cfg,
        "src_nodes": sources,
        "dst_nodes": [*readers, "logits"],
        "edges_scores": scores,
        "edges_in_graph": inside,
        "nodes_in_graph": torch.ones(shape[0], dtype=torch.bool),
    }


def test_a_saved_graph_of_eap_ig_is_its_json(graph):
    said = drawn(graph)
    found = read_data(saved(as_pt(graph, said)), "x.pt", graph)
    back = mib_json(graph, found.mask, found.score)["edges"]
    assert {name: (one["score"], one["in_graph"]) for name, one in back.items()} == said


# --- ACDC --------------------------------------------------------------------------------------------------


def hooks(graph, sender, receiver):
    layer, head = sender
    writes = ("blocks.0.hook_resid_pre", (None,))
    if layer is not None:
        writes = (f"blocks.{layer}.hook_mlp_out", (None,))
        if head is not None:
            writes = (f"blocks.{layer}.attn.hook_result", (None, None, head))
    to, head, port = receiver
    reads = {
        "mlp": (f"blocks.{to}.hook_mlp_in", (None,)),
        "logits": (f"blocks.{graph.n_layers - 1}.hook_resid_post", (None,)),
    }.get(port, (f"blocks.{to}.hook_{port}_input", (None, None, head)))
    return (*reads, *writes)


def as_subgraph(graph, said):
    """The dict of ACDC's `save_subgraph`: every edge of the residual stream, and those inside of heads and MLPs."""
    edges = {
        hooks(graph, sender, receiver): said[our_name(sender, receiver)][1]
        for _, sender, receiver in in_order(graph)
    }
    for layer in range(graph.n_layers):
        edges[f"blocks.{layer}.hook_mlp_out", (None,), f"blocks.{layer}.hook_mlp_in", (None,)] = True
        for head, port in product(range(graph.n_heads), "qkv"):
            at, gate = (None, None, head), f"blocks.{layer}.attn.hook_{port}"
            edges[f"blocks.{layer}.attn.hook_result", at, gate, at] = True
            reads = any(
                inside for name, (_, inside) in said.items() if name.endswith(f"->a{layer}.h{head}<{port}>")
            )
            edges[gate, at, f"blocks.{layer}.hook_{port}_input", at] = reads
    return edges


def test_a_subgraph_of_acdc_comes_back_as_it_was(graph):
    said = drawn(graph)
    theirs = as_subgraph(graph, said)
    found = read_data(saved(theirs), "x.pth", graph)
    assert np.isnan(found.score).all()
    names = {name for name, one in mib_json(graph, found.mask, None)["edges"].items() if one["in_graph"]}
    assert names == {name for name, (_, inside) in said.items() if inside}
    listed = json.loads(json.dumps(acdc_json(graph, found.mask, None)))
    assert {(a, tuple(i), b, tuple(j)): present for (a, i, b, j), present, _ in listed} == theirs
    again = read_circuit(json.dumps(listed), "x.json", graph)
    np.testing.assert_array_equal(again.mask, found.mask)


def test_edges_of_acdc_are_read_as_it_prints_them_with_their_effects():
    graph, (mlp, head) = (
        GRAPHS["all heads alike"],
        ("blocks.0.hook_mlp_out[:]", "blocks.1.hook_q_input[:, :, 2]"),
    )
    texts = [
        (f'[["{head}{mlp}", 0.5]]', "x.json"),
        (f'{{"{mlp}->{head}": 0.5}}', "x.json"),
        ('[[["blocks.1.hook_q_input", [null, null, 2], "blocks.0.hook_mlp_out", [null]], 0.5]]', "x.json"),
        (
            '[[["blocks.1.attn.hook_q", [null, null, 2], "blocks.0.hook_mlp_out", [null]], true, 0.5]]',
            "x.json",
        ),
        (f'edge,score\n"{head}<-{mlp}",0.5\n', "x.csv"),
        (
            (
                'receiver,receiver_index,sender,sender_index,score\nblocks.1.hook_q_input,"[:, :, 2]",'
                "blocks.0.hook_mlp_out,[:],0.5\n"
            ),
            "x.csv",
        ),
    ]
    for text, where in texts:
        found = read_circuit(text, where, graph)
        assert [graph.edge_name(int(edge)) for edge in np.flatnonzero(found.mask)] == ["m0->a1.h2<q>"], text
        assert found.score[found.mask].item() == 0.5


@pytest.mark.parametrize("gate", ["false", None])
def test_no_edge_into_a_head_whose_query_was_cut_off_is_in_the_circuit(gate):
    graph = GRAPHS["all heads alike"]
    at = "[null, null, 2]"
    edges = [
        f'[["blocks.1.hook_q_input", {at}, "blocks.0.hook_mlp_out", [null]], true]',
        f'[["blocks.1.hook_v_input", {at}, "blocks.0.hook_mlp_out", [null]], true]',
        f'[["blocks.1.attn.hook_v", {at}, "blocks.1.hook_v_input", {at}], true]',
    ]
    if gate:
        edges.append(f'[["blocks.1.attn.hook_q", {at}, "blocks.1.hook_q_input", {at}], {gate}]')
    found = read_circuit(f"[{','.join(edges)}]", "x.json", graph)
    assert [graph.edge_name(int(edge)) for edge in np.flatnonzero(found.mask)] == ["m0->a1.h2<v>"]


# --- auto-circuit ------------------------------------------------------------------------------------------


def plain(sender, receiver):
    layer, head = sender
    writes = "Resid Start" if layer is None else f"MLP {layer}" if head is None else f"A{layer}.{head}"
    to, head, port = receiver
    ends = {"mlp": f"MLP {to}", "logits": "Resid End"}
    return f"{writes}->" + (ends.get(port) or f"A{to}.{head}.{port.upper()}")


def as_prune_scores(graph, said, dtype=torch.float32):
    """auto-circuit's scores of the incoming edges of a module, by head where it has heads."""
    scores = {}
    for _, sender, receiver in in_order(graph):
        layer, head, port = receiver
        name = {
            "mlp": f"blocks.{layer}.hook_mlp_in",
            "logits": f"blocks.{graph.n_layers - 1}.hook_resid_post",
        }
        rows = scores.setdefault(name.get(port, f"blocks.{layer}.hook_{port}_input"), {})
        rows.setdefault(head, []).append(
            said[our_name(sender, receiver)][0 if dtype.is_floating_point else 1]
        )
    return {
        module: torch.tensor(
            rows[None] if None in rows else [rows[head] for head in sorted(rows)], dtype=dtype
        )
        for module, rows in scores.items()
    }


def test_pruning_scores_of_auto_circuit_come_back_as_they_were(graph):
    said = drawn(graph)
    theirs = as_prune_scores(graph, said)
    found = read_data(saved({"ioi": {"edge attribution": theirs}}), "x.pkl", graph)
    assert found.mask is None
    written = json.loads(json.dumps(auto_circuit_json(graph, found.mask, found.score)))
    assert {*written} == {"prune_scores"}
    back = {module: torch.tensor(rows) for module, rows in written["prune_scores"].items()}
    assert back.keys() == theirs.keys()
    assert all(torch.equal(back[module], theirs[module]) for module in theirs)
    again = read_circuit(json.dumps(written), "x.json", graph)
    np.testing.assert_array_equal(again.score, found.score)


def test_a_circuit_of_auto_circuit_comes_back_as_it_was(graph):
    said = drawn(graph)
    by_name = [plain(*ends) for _, *ends in in_order(graph) if said[our_name(*ends)][1]]
    for found in (
        read_data(saved(as_prune_scores(graph, said, torch.bool)), "x.pt", graph),
        read_circuit(json.dumps(by_name), "x.json", graph),
        read_circuit("\n".join(["edge", *by_name, ""]), "x.csv", graph),
    ):
        assert sorted(auto_circuit_json(graph, found.mask, None)["edges"]) == sorted(by_name)
    written = json.dumps(auto_circuit_json(graph, found.mask, None))
    np.testing.assert_array_equal(read_circuit(written, "x.json", graph).mask, found.mask)


# --- what cannot be read -----------------------------------------------------------------------------------


class Code:
    """An object of a class that whoever reads it would have to import."""


SMALL = GRAPHS["all heads alike"]
OTHER = Graph(3, 3, 3, d_model=6)
IN = "blocks.0.hook_mlp_in"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (as_pt(OTHER, drawn(OTHER)), "is of a model with n_layers 3; here it is 2"),
        ({**as_pt(OTHER, drawn(OTHER)), "cfg": {}}, "is of a model with other nodes than this (2 layers"),
        (
            {**as_pt(SMALL, drawn(SMALL)), "edges_in_graph": torch.zeros(2, 2)},
            "edges_in_graph has the shape (2, 2)",
        ),
        (
            {k: v for k, v in as_pt(SMALL, drawn(SMALL)).items() if k != "edges_in_graph"},
            "is no array of numbers",
        ),
        (as_prune_scores(OTHER, drawn(OTHER)), "has 'blocks.2.hook_q_input', which this model has not"),
        ({IN: torch.zeros(4)}, "lacks blocks.0.hook_q_input; it is of another model"),
        (
            {"blocks.0.hook_attn_in": torch.zeros(3, 1)},
            "reads q, k and v as one; run auto-circuit with separate_qkv",
        ),
        (
            {**as_prune_scores(SMALL, drawn(SMALL)), IN: torch.zeros(5, 4)},
            "has the shape (5, 4); here it is (4,): is of single positions",
        ),
        (
            {"ioi": {"a": as_prune_scores(SMALL, drawn(SMALL)), "b": as_prune_scores(SMALL, drawn(SMALL))}},
            "has 2 sets of scores (ioi/a, ioi/b ...); save one of them alone",
        ),
        ({"weights": torch.zeros(2)}, "is nothing that EAP-IG, ACDC or auto-circuit write"),
        (3, "is nothing that EAP-IG, ACDC or auto-circuit write"),
    ],
)
def test_saved_data_of_another_shape_or_kind_is_refused_in_one_line(data, message):
    with pytest.raises(CircuitsError) as caught:
        read_data(saved(data), "x.pt", SMALL)
    assert str(caught.value).startswith("x.pt: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("blocks.9.hook_mlp_in[:]blocks.0.hook_mlp_out[:]", "is not in this model: no receiver 'm9'"),
        ("blocks.1.hook_q_input[:, 4, 2]blocks.0.hook_mlp_out[:]", "is of single positions"),
        ("blocks.1.hook_q_input[:]blocks.0.hook_mlp_out[:]", "has no head for blocks.1.hook_q_input"),
        ("blocks.1.hook_mlp_in[:]hook_pos_embed[:]", "run ACDC with use_pos_embed=False"),
        ("blocks.7.hook_resid_post[:]blocks.0.hook_mlp_out[:]", "and the last blocks.1.hook_resid_post"),
        (
            "blocks.1.hook_mlp_in[:]blocks.0.hook_mlp_in[:]",
            "leads from no node that writes to one that reads",
        ),
        ("blocks.1.hook_scale[:]blocks.0.hook_mlp_out[:]", "which is none of ACDC's"),
        ("blocks.1.hook_mlp_in", "is no pair of hooks"),
        ("Resid Start->A1.2", "A1.2 reads q, k and v as one"),
        ("Resid Mid 0->MLP 1", "which is no node of auto-circuit's factorized graph"),
        ("Resid End->MLP 1", "has 'Resid End' at the wrong end"),
        ("A0.1.Q->MLP 1", "which writes nothing"),
        ("MLP 1->A1.2.V", "is not in this model: 'm1->a1.h2<v>' is no edge of this graph"),
        ("A0.7->MLP 1", "no sender 'a0.h7' in this graph"),
    ],
)
def test_an_edge_that_is_none_is_named_with_its_line_and_the_mend(name, message):
    first = json.dumps("MLP 0->MLP 1")
    with pytest.raises(CircuitsError) as caught:
        read_circuit(f"[\n{first},\n{json.dumps(name)}]", "theirs.json", SMALL)
    assert str(caught.value).startswith(f"theirs.json: line 3: '{name}'")
    assert message in str(caught.value)
    with pytest.raises(CircuitsError, match=r"theirs\.csv: line 3: "):
        read_circuit(f'edge\nMLP 0->MLP 1\n"{name}"\n', "theirs.csv", SMALL)


def test_an_edge_twice_in_two_peoples_words_is_there_twice():
    twice = ["m0->a1.h2<q>", "MLP 0->A1.2.Q", "blocks.1.hook_q_input[:, :, 2]blocks.0.hook_mlp_out[:]"]
    for name in twice[1:]:
        with pytest.raises(CircuitsError, match="is there twice; leave one out"):
            read_circuit(json.dumps([twice[0], name]), "x.json", SMALL)


def test_scores_that_are_nan_are_scores_that_are_not_there():
    said = drawn(SMALL)
    graph = as_pt(SMALL, said)
    graph["edges_scores"][0, 0] = math.nan
    found = read_data(saved(graph), "x.pt", SMALL)
    assert np.flatnonzero(np.isnan(found.score)).tolist() == [SMALL.edge_id("input->a0.h0<q>")]
    graph["edges_scores"][0, 0] = math.inf
    with pytest.raises(CircuitsError, match=r"x.pt: 'input->a0.h0<q>' has the score inf, which is no number"):
        read_data(saved(graph), "x.pt", SMALL)
    assert np.isnan(read_circuit("edge,score\nMLP 0->MLP 1,nan\n", "x.csv", SMALL).score).all()


def test_objects_are_never_loaded():
    with pytest.raises(CircuitsError, match="holds objects of Python beside tensors and plain values"):
        saved({"edges": Code()})
