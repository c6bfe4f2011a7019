"""How well scores tell a known circuit from the rest: counted by hand, of edges and of nodes."""

import json

import numpy as np
import pytest

from pipeline import RunConfig, discover
from pipeline.core.graph import Graph
from pipeline.core.scores import EdgeScores
from pipeline.evaluation import Auroc, Subject
from pipeline.models.toy import known_circuit
from pipeline.tasks import Acronym
from tests.runs import PAIR, toy_mapping

GRAPH = Graph(1, 2, 2)  # senders: input a0.h0 a0.h1 m0


def found(score, kept=None, **known):
    n = np.ones(len(score), dtype=np.int64)
    scores = EdgeScores(GRAPH, np.asarray(score), np.zeros(len(score)), n, kept=kept)
    subject = Subject("task", "method", scores, "logit_diff", "corrupted", **known)
    return {one.quantity: one.value for one in Auroc().find(subject, None, ())}


def of_edges(**values):
    return np.asarray([values.get(name.replace("->", "_to_"), 0.0) for name in GRAPH.edge_names])


def test_of_edges_every_pair_counts():
    truth = GRAPH.mask(["a0.h0->logits", "a0.h1->logits"])
    score = of_edges(a0_h0_to_logits=0.0) + np.where(GRAPH.mask(["a0.h0->logits"]), -3.0, 0.0)
    # one true edge above all 11 others, one tied with them
    assert GRAPH.n_edges == 13
    assert found(score, truth=truth)["auroc"] == pytest.approx((11 + 11 / 2) / 22)
    assert "node_auroc" not in found(score, truth=truth)


def test_of_nodes_a_node_is_worth_its_strongest_edge_and_compared_with_its_kind():
    truth = np.asarray([node.name == "a0.h1" for node in GRAPH.senders])
    weak, strong = GRAPH.mask(["a0.h0->m0", "a0.h0->logits"]), GRAPH.mask(["a0.h1->logits"])
    mlp = GRAPH.mask(["m0->logits"])
    score = np.where(strong, -1.0, np.where(weak, 0.8, np.where(mlp, 9.0, 0.0)))
    said = found(score, true_nodes=truth)
    assert said == {"auroc": None, "node_auroc": 1.0}, "the MLP is no head, and 0.8 twice is less than 1"
    assert found(-np.abs(score) * ~strong, true_nodes=truth)["node_auroc"] == 0.0


def test_of_nodes_what_is_kept_is_right_or_not():
    truth = np.asarray([node.name == "a0.h1" for node in GRAPH.senders])
    kept = GRAPH.mask(["a0.h1->logits", "a0.h0->m0", "m0->logits"])
    said = found(np.zeros(GRAPH.n_edges), kept=kept, true_nodes=truth)
    assert (said["node_precision"], said["node_recall"]) == (0.5, 1.0)
    assert said["precision"] is None


def test_scores_that_name_the_heads_of_a_paper_have_an_area_of_one():
    graph = Graph(12, 12, 12)
    known = set(Acronym().truth(graph, "gpt2"))
    nodes = np.asarray([node.name in known for node in graph.senders])
    score = nodes[graph.edge_senders] * 2.0
    scores = EdgeScores(graph, score, score, np.ones(len(score), dtype=np.int64))
    subject = Subject("acronym", "eap", scores, "logit_diff", "corrupted", true_nodes=nodes)
    assert {one.quantity: one.value for one in Auroc().find(subject, None, ())}["node_auroc"] == 1.0


@pytest.mark.parametrize("known", ["edges", "nodes"])
def test_a_circuit_beside_the_prompts_is_compared_with(tmp_path, known):
    edges = known_circuit("toy:planted")
    heads = sorted({edge.partition("->")[0] for edge in edges if edge.startswith("a")})
    said = {"model": "toy:planted", known: list(edges) if known == "edges" else heads}
    (tmp_path / "circuit.json").write_text(json.dumps(said))
    (tmp_path / "own.jsonl").write_text(json.dumps(PAIR) + "\n")
    mapping = toy_mapping(tmp_path / "runs", tasks=[{"name": "file", "path": str(tmp_path / "own.jsonl")}])
    mapping |= {"methods": ["eap"], "evaluate": {"edge_fractions": [0.1], "also": ["auroc"]}}
    run = discover(RunConfig.from_mapping(mapping), local=True, quiet=True)
    found = run.evaluations().set_index("quantity")["value"]
    assert found["auroc" if known == "edges" else "node_auroc"] > 0.8
    assert ("node_auroc" in found) == (known == "nodes")
    assert (run.truth("own") is None) == (known == "nodes")
    assert (run.true_nodes("own") is None) == (known == "edges")
