"""How things look at a prompt and in a notebook: what they are, in a line; never their arrays."""

from html import escape

import numpy as np
import pytest

from pipeline import Circuit, RunConfig, discover, load_model, make_plan
from pipeline.core.graph import Graph
from pipeline.core.scores import EdgeScores, Moments, NodeScores
from pipeline.core.showing import names
from tests.runs import toy_mapping

GRAPH = Graph(n_layers=12, n_heads=12, n_kv_heads=12, d_model=768)


@pytest.fixture(scope="module")
def scores():
    rows = np.random.default_rng(0).normal(size=(4, GRAPH.n_edges))
    return EdgeScores.from_moments(
        GRAPH, Moments.of(rows), per_prompt=rows, facts={"long": list(range(5000))}
    )


def test_a_graph_says_its_sizes():
    assert repr(GRAPH) == "Graph(12 layers, 12 heads, 32,491 edges)"


def test_scores_say_of_how_many_edges_and_prompts(scores):
    assert repr(scores) == "EdgeScores(32,491 edges, 4 prompts, with every prompt's)"
    assert repr(scores.moments) == "Moments(32,491 entries, 4 prompts)"
    mean = np.where(np.arange(GRAPH.n_edges) < 9, np.nan, 1.0)
    n = np.where(np.isnan(mean), 0, 7)
    kept = EdgeScores(GRAPH, mean, mean, n, kept=np.arange(GRAPH.n_edges) < 20, span="last")
    assert repr(kept) == "EdgeScores(32,482 of 32,491 edges, 7 prompts, at last, 20 kept)"
    nodes = np.zeros(3, dtype=int)
    assert (
        repr(NodeScores(GRAPH, nodes, (None,) * 3, mean[-3:], mean[-3:], n[-3:]))
        == "NodeScores(3 rows, 7 prompts)"
    )
    assert repr(NodeScores.empty(GRAPH)) == "NodeScores(0 rows, 0 prompts)"


def test_scores_are_a_table_of_the_strongest_in_a_notebook(scores):
    html = scores._repr_html_()
    assert html.count("<tr") == 11
    strongest = int(np.nanargmax(np.abs(scores.score)))
    assert GRAPH.senders[GRAPH.edge_senders[strongest]].name in html
    assert len(html) < 6000
    assert NodeScores.empty(GRAPH)._repr_html_().count("<tr") == 1


def test_a_circuit_says_its_size_and_lists_its_strongest_edges(scores):
    circuit = Circuit.from_scores(scores, top=30)
    assert repr(circuit) == f"Circuit(30 of 32,491 edges, {circuit.pruned.n_edges} without dangling nodes)"
    frame = circuit.to_frame()
    assert sorted(frame["edge"]) == sorted(circuit.edge_names)
    assert frame["score"].abs().is_monotonic_decreasing
    assert escape(frame["edge"][0]) in circuit._repr_html_()
    assert repr(Circuit(GRAPH, np.zeros(GRAPH.n_edges, dtype=bool))).startswith("Circuit(0 of ")


def test_a_model_and_a_batch_say_what_and_where_they_are():
    model = load_model("toy:planted")
    ids = np.arange(6).reshape(2, 3)
    import torch

    batch = model.batch_from_ids(torch.tensor(ids), torch.tensor(ids[::-1].copy()), torch.tensor([1, 2]))
    assert repr(batch) == "Batch(2 prompts, 3 tokens, on cpu)"
    shown = repr(model)
    assert model.graph.describe() in shown
    assert shown.endswith(", float32, on cpu)")
    assert len(shown) < 200


def test_a_config_and_a_plan_name_tasks_and_methods(tmp_path):
    methods = [{"name": "eap", "as": f"e{i}"} for i in range(12)]
    config = RunConfig.from_mapping(toy_mapping(tmp_path, methods=methods))
    listed = ", ".join(f"e{i}" for i in range(10))
    assert repr(config) == str(config)
    assert repr(config) == f"RunConfig(toy: toy:planted, tasks [induction], methods [{listed}, and 2 more])"
    assert "name: toy:planted" in config._repr_html_()
    plan = make_plan(config)
    assert repr(plan) == f"Plan({plan.run_id}: 39 items, [induction] x [{listed}, and 2 more])"


def test_names_are_counted_from_the_eleventh_on():
    assert names([]) == "[]"
    assert names(range(11)) == "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, and 1 more]"


def test_discover_tells_how_far_it_is_unless_it_is_asked_not_to(tmp_path, capsys):
    config = RunConfig.from_mapping(toy_mapping(tmp_path, methods=[{"name": "eap"}]))
    run = discover(config, local=True)
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines()[0].startswith("6 of 6 items to do")
    assert "[6/6]" in said.err
    assert "writing the report" in said.err
    assert "induction</td>" in run._repr_html_()
    again = RunConfig.from_mapping(toy_mapping(tmp_path / "quiet", methods=[{"name": "eap"}]))
    discover(again, local=True, quiet=True)
    assert capsys.readouterr().err == ""
