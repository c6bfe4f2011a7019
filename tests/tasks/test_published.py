"""Circuits of papers: counted by hand, of their model alone, and as others wrote them down."""

import json
from collections import Counter

import pytest

from pipeline.core.graph import Graph
from pipeline.tasks import Acronym, ColouredObjects, Docstring, GreaterThan, Ioi, published

SMALL = Graph(12, 12, 12, d_model=768)
MEDIUM = Graph(24, 16, 16, d_model=1024)
FOUR = Graph(4, 8, 8, d_model=512)
KNOWN = ((Ioi, SMALL, "gpt2"), (GreaterThan, SMALL, "gpt2"), (Acronym, SMALL, "gpt2"))
KNOWN += ((ColouredObjects, MEDIUM, "gpt2-medium"), (Docstring, FOUR, "attn-only-4l"))


def ends(names):
    return [tuple(name.split("->")) for name in names]


def heads_of(names):
    return {end.partition("<")[0] for edge in ends(names) for end in edge if end.startswith("a")}


def test_ioi_has_the_heads_of_each_class_that_the_paper_counts():
    counts = {name: len(heads) for name, heads in published.IOI.items()}
    assert counts == {
        "previous token": 2,
        "duplicate token": 3,
        "induction": 4,
        "S-inhibition": 4,
        "name mover": 3,
        "backup name mover": 8,
        "negative name mover": 2,
    }
    assert len(heads_of(Ioi().truth(SMALL, "gpt2"))) == 26


def test_ioi_has_as_many_edges_as_counted_by_hand():
    edges = ends(Ioi().truth(SMALL, "gpt2"))
    heads = [edge for edge in edges if all(end.startswith("a") for end in edge)]
    # previous -> induction k, v; induction and duplicate -> S-inhibition k, v; S-inhibition -> 13 movers q
    assert len(heads) == 2 * 4 * 2 + (4 + 3) * 4 * 2 + 4 * 13
    into_logits = Counter(sender[0] for sender, receiver in edges if receiver == "logits")
    assert into_logits == {"a": 13, "m": 12}
    # a head of layer l reads the input and l MLPs: previous and duplicate q, k, v; S-inhibition q; movers k, v
    read = sum(sender[0] in "im" and receiver[0] == "a" for sender, receiver in edges)
    assert read == 3 * (3 + 5 + 1 + 1 + 4) + (8 + 8 + 9 + 9) + 2 * (31 + 88 + 23)
    # a head of layer l is read by 12 - l MLPs; MLPs read the input and those before them
    assert sum(sender[0] == "a" and receiver[0] == "m" for sender, receiver in edges) == 8 + 16 + 3
    assert sum(sender[0] in "im" and receiver[0] == "m" for sender, receiver in edges) == 12 + 66
    assert len(edges) == 614


def test_greater_than_has_as_many_edges_as_counted_by_hand():
    edges = GreaterThan().truth(SMALL, "gpt2")
    assert len(heads_of(edges)) == 3 + 6
    assert {end for edge in ends(edges) for end in edge if end.startswith("m")} == {
        *(f"m{layer}" for layer in (0, 1, 2, 3, 8, 9, 10, 11))
    }
    senders = Counter(sender for sender, _ in ends(edges))
    assert senders["input"] == 3 * 3 + 4  # q, k, v of three heads of layer 0, and four MLPs
    assert senders["a0.h1"] == 4 + 6 * 3
    assert senders["a0.h3"] == senders["a0.h5"] == 6 * 3
    assert [senders[f"m{layer}"] for layer in range(4)] == [3 + 18, 2 + 18, 1 + 18, 18]
    assert [senders[f"m{layer}"] for layer in range(8, 12)] == [4, 3, 2, 1]
    assert senders["a9.h1"] == 3 + 1  # three MLPs from its own layer on, and the logits
    assert len(edges) == 188


def test_docstring_has_the_edges_that_the_paper_draws():
    edges = Docstring().truth(FOUR, "attn-only-4l")
    assert len(edges) == len(set(edges)) == 24
    assert heads_of(edges) == {"a0.h5", "a1.h2", "a1.h4", "a2.h0", "a3.h0", "a3.h6"}
    assert [edge for edge in edges if edge.endswith("logits")] == ["a3.h0->logits", "a3.h6->logits"]


def test_acronym_and_coloured_objects_are_heads():
    assert len(Acronym().truth(SMALL, "gpt2")) == 8
    assert len(ColouredObjects().truth(MEDIUM, "gpt2-medium")) == 10
    assert {*ColouredObjects().truth(MEDIUM, "gpt2-medium")} < {node.name for node in MEDIUM.senders}


@pytest.mark.parametrize(("task", "graph", "model"), KNOWN, ids=lambda value: getattr(value, "__name__", ""))
def test_a_circuit_is_that_of_its_model_alone(tmp_path, monkeypatch, task, graph, model):
    assert task().truth(graph, model)
    assert task().truth(graph, "somebody/elses") is None, "another model of that shape"
    assert task().truth(graph, f"somebody/{model}") is None, "what somebody calls so on the hub"
    assert task().truth(Graph(3, 4, 4, d_model=64), model) is None, "another shape of that name"
    assert task().truth(Graph(graph.n_layers, graph.n_heads, graph.n_heads, d_model=96), model) is None
    parallel = Graph(graph.n_layers, graph.n_heads, graph.n_heads, parallel=True, d_model=graph.d_model)
    assert task().truth(parallel, model) is None
    monkeypatch.chdir(tmp_path)
    for name in (f"models/{model}", "models/other"):
        (tmp_path / name).mkdir(parents=True)
    assert task().truth(graph, f"models/{model}") == task().truth(graph, model), "its folder"
    assert task().truth(graph, "models/other") is None


def test_groups_of_keys_and_values_have_their_own_names():
    grouped = Graph(12, 12, 12, kv="kv_head", d_model=768)
    for task in (Ioi, GreaterThan):
        edges = task().truth(grouped, "gpt2")
        assert set(edges) <= set(grouped.edge_names)
        assert len(edges) == len(task().truth(SMALL, "gpt2"))


# --- as others wrote them down -------------------------------------------------------------------------------


def of(shared_data, name):
    return json.loads((shared_data / "circuits" / f"{name}.json").read_text())


def between(graph, senders, receivers, ports):
    """Edges from each sender to each receiver of a later layer, or to the MLP of its own layer after a head."""
    ids = {node.name: index for index, node in enumerate(graph.senders)}
    wanted = {f"{one}<{port}>" for one in receivers for port in ports} if ports else set(receivers)
    return {
        f"{sender}->{receiver}"
        for sender in senders
        for receiver in wanted
        if ids[sender] < graph.senders_read[graph.receiver_index(receiver)]
    }


def test_ioi_is_what_the_authors_of_acdc_made_of_it(shared_data):
    table = of(shared_data, "ioi_gpt2small")
    ours = {name: {f"a{layer}.h{head}" for layer, head in heads} for name, heads in published.IOI.items()}
    theirs = {name: set(heads) for name, heads in table["heads_by_class"].items()}
    assert {name.lower().replace(" ", "_").replace("-", "_"): heads for name, heads in ours.items()} == theirs
    mlps = [f"m{layer}" for layer in range(12)]
    classes = table["heads_by_class"] | {"input": ["input", *mlps], "logits": ["logits", *mlps]}
    edges = between(SMALL, ["input", *mlps], mlps, "") | {f"{mlp}->logits" for mlp in mlps}
    for sender, receiver, ports in table["class_edges"]:
        edges |= between(SMALL, classes[sender], classes[receiver], ports)
    assert edges == set(Ioi().truth(SMALL, "gpt2"))


def test_greater_than_is_what_the_authors_of_acdc_made_of_it(shared_data):
    table = of(shared_data, "greaterthan_gpt2small")
    groups = table["groups"] | {"input": ["input"], "logits": ["logits"]}
    edges = set()
    for sender, receiver, ports in table["group_edges"]:
        edges |= between(SMALL, groups[sender], groups[receiver], ports)
    assert edges == set(GreaterThan().truth(SMALL, "gpt2"))


def test_docstring_is_what_the_authors_of_acdc_made_of_it(shared_data):
    assert set(of(shared_data, "docstring_attn4l")["edges"]) == set(Docstring().truth(FOUR, "attn-only-4l"))
