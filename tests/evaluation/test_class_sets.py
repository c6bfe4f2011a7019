"""Completeness class by class: which edges are lost with a class, and how far circuit and model are apart then."""

import numpy as np
import pytest

from pipeline import discover, load_model
from pipeline.core.circuit import Circuit
from pipeline.core.errors import CircuitsError, ConfigError
from pipeline.core.graph import Graph
from pipeline.core.scores import EdgeScores
from pipeline.evaluation import Chosen, ClassSets, Subject, Values, circuit_values
from tests.runs import toy_config

GRAPH = Graph(2, 2, 2)
N = GRAPH.n_edges
EDGES = (
    "input->a0.h0<q>",
    "input->a0.h0<v>",
    "a0.h0->m0",
    "m0->a1.h1<k>",
    "a0.h0->a1.h1<v>",
    "a1.h1->logits",
)
CIRCUIT = Circuit(GRAPH, GRAPH.mask(EDGES))
SCORES = EdgeScores(GRAPH, np.ones(N), np.zeros(N), np.full(N, 2))


def subject(**more):
    return Subject("t", "m", SCORES, "logit_diff", "corrupted", chosen=Chosen(CIRCUIT, 0.5), **more)


def lost(asked, of=None):
    """Of each class, what the circuit loses and how many edges the model does."""
    circuits = asked.circuits(of or subject())
    assert len(circuits) <= asked.n_circuits(GRAPH, decides=False)
    assert circuits.pop("circuit") is CIRCUIT
    found = {}
    for label, one in circuits.items():
        who, _, name = label.partition("-without-")
        gone = CIRCUIT.mask & ~one.mask if who == "circuit" else ~one.mask
        found.setdefault(name, {})[who] = {GRAPH.edge_names[edge] for edge in np.flatnonzero(gone)}
    assert all({*one["circuit"]} == {*one["model"]} & {*EDGES} for one in found.values())
    return {name: (one["circuit"], len(one["model"])) for name, one in found.items()}


def out(*names):
    return {edge for edge in EDGES if edge.partition("->")[0] in names}


def n_out(*names):
    """How many edges of the graph go out of these nodes, counted by their names."""
    return sum(edge.partition("->")[0] in names for edge in GRAPH.edge_names)


def test_nodes_are_lost_with_all_edges_out_of_them_and_edges_where_the_circuit_has_them():
    assert lost(ClassSets()) == {
        "kind-head": (out("a0.h0", "a1.h1"), n_out("a0.h0", "a1.h1")),
        "kind-mlp": (out("m0"), n_out("m0")),
        "port-q": ({EDGES[0]}, 1),
        "port-k": ({EDGES[3]}, 1),
        "port-v": ({EDGES[1], EDGES[4]}, 2),
        "port-mlp": ({EDGES[2]}, 1),
        "port-logits": ({EDGES[5]}, 1),
    }
    assert lost(ClassSets(by=("layer",))) == {
        "layer-0": (out("a0.h0", "m0"), n_out("a0.h0", "m0")),
        "layer-1": (out("a1.h1"), n_out("a1.h1")),
    }


def test_what_is_known_to_be_right_is_a_class_and_what_is_not_another_one():
    by = ClassSets(by=("truth",))
    known = GRAPH.mask(("input->a0.h0<q>", "a1.h1->logits", "m1->logits"))
    assert lost(by, subject(truth=known)) == {
        "truth-yes": ({EDGES[0], EDGES[5]}, 2),
        "truth-no": ({*EDGES[1:5]}, 4),
    }
    nodes = np.isin([node.name for node in GRAPH.senders], ["m0", "m1"])
    assert lost(by, subject(true_nodes=nodes)) == {
        "truth-yes": (out("m0"), n_out("m0")),
        "truth-no": (out("a0.h0", "a1.h1"), n_out("a0.h0", "a1.h1")),
    }
    assert not lost(by), "nothing is known"


def test_groups_are_nodes_and_edges_by_name_and_none_that_the_circuit_lacks():
    asked = ClassSets(by=(), groups={"early": ("a0.h0", "a0.h1", "m0->a1.h1<k>"), "absent": ("m1",)})
    assert lost(asked) == {"early": (out("a0.h0") | {EDGES[3]}, n_out("a0.h0") + 1)}
    with pytest.raises(CircuitsError, match=r"no sender 'a9\.h0'"):
        ClassSets(groups={"movers": ("a9.h0",)}).n_circuits(GRAPH, decides=False)


def test_the_classes_of_a_paper_are_its_heads_and_of_its_model_alone():
    small = Graph(12, 12, 12, d_model=768)
    every = Circuit(small, np.ones(small.n_edges, dtype=bool))
    ones = EdgeScores(small, np.ones(small.n_edges), np.zeros(small.n_edges), np.full(small.n_edges, 2))
    of = Subject("t", "m", ones, "logit_diff", "corrupted", chosen=Chosen(every, 1.0))

    def nodes(published):
        lost = ClassSets(by=(), published=published).sets(of)
        return {
            name: {small.senders[node].name for node in small.edge_senders[gone]}
            for name, gone in lost.items()
        }

    heads = nodes("ioi")
    assert {name: len(one) for name, one in heads.items()} == {
        "previous-token": 2,
        "duplicate-token": 3,
        "induction": 4,
        "s-inhibition": 4,
        "name-mover": 3,
        "backup-name-mover": 8,
        "negative-name-mover": 2,
    }
    assert heads["name-mover"] == {"a9.h6", "a9.h9", "a10.h0"}
    assert ClassSets(by=(), published="ioi").n_circuits(small, decides=False) == 1 + 2 * 7
    assert nodes("greater_than")["late-mlp"] == {"m8", "m9", "m10", "m11"}
    with pytest.raises(CircuitsError, match=r"heads of gpt2-medium \(24 layers"):
        ClassSets(published="coloured_objects").n_circuits(small, decides=False)


def test_the_gap_is_that_of_circuit_and_model_without_the_same_in_shares_of_the_behaviour():
    asked = ClassSets(by=("kind",))
    ran = {"circuit": 4.0, "circuit-without-kind-head": 1.0, "model-without-kind-head": 2.5}
    ran |= {"circuit-without-kind-mlp": 3.0, "model-without-kind-mlp": 2.0}
    values = Values(np.full(2, 5.0), np.full(2, 1.0), {label: np.full(2, one) for label, one in ran.items()})
    found = {(one.quantity, one.circuit): one.value for one in asked.find(subject(), values, ())}
    assert found == {
        ("whole", "circuit"): 0.25,
        ("median", "circuit"): 0.3125,
        ("largest", "circuit"): 0.375,
        ("incompleteness", "without-kind-head"): 0.375,
        ("incompleteness", "without-kind-mlp"): 0.25,
    }


def config_of(folder, **groups):
    also = [{"name": "class_sets", "by": ["layer", "port"], "groups": groups}]
    return toy_config(
        folder,
        model={"name": "toy:trained"},
        tasks=[{"name": "induction", "count": 2}],
        methods=[{"name": "eap"}],
        shards={"prompts": 1},
        evaluate={"edge_fractions": [0.1], "also": also},
    )


def test_a_run_finds_what_evaluating_each_set_by_hand_finds(tmp_path):
    run = discover(config_of(tmp_path, one=["a0.h0", "m0"]), local=True, quiet=True)
    graph, model = run.graph, load_model("toy:trained")
    circuit = run.circuit("eap", "induction", top=int(run.faithfulness()["n_edges"].item()))
    mine = {edge.partition("->")[0] for edge in circuit.pruned.edge_names} - {"input"}

    def out_of(inside):
        return [edge for edge in graph.edge_names if edge.partition("->")[0] in mine & inside]

    sets = {
        "layer-0": out_of({"m0", *(f"a0.h{head}" for head in range(graph.n_heads))}),
        "port-q": [edge for edge in circuit.edge_names if edge.endswith("<q>")],
        "port-mlp": [edge for edge in circuit.edge_names if "->m" in edge],
        "one": out_of({"a0.h0", "m0"}),
    }
    left = [~graph.mask(edges) for edges in sets.values()]
    masks = np.stack([*(circuit.mask & one for one in left), *left])
    batch = model.batch(run.prompts("induction"))
    full, empty, *values = circuit_values(model, [batch], masks).mean(axis=1)
    gaps = np.abs(np.subtract(values[: len(sets)], values[len(sets) :])) / abs(full - empty)
    rows = run.evaluations().query("evaluation == 'class_sets' and quantity == 'incompleteness'")
    found = rows.set_index("circuit")["value"]
    assert gaps.max() > 0.1
    assert [found[f"without-{name}"] for name in sets] == pytest.approx([*gaps], abs=1e-5)


def test_a_group_that_the_model_lacks_is_one_line_before_anything_is_written(tmp_path):
    with pytest.raises(ConfigError, match=r"also \(class_sets\): no sender 'a9\.h0'"):
        discover(config_of(tmp_path, movers=["a9.h0"]), local=True, quiet=True)
    assert not [*tmp_path.iterdir()]
