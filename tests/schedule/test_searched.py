"""An evaluation that searches: rounds of circuits by what those before have shown, over shards, and after a kill."""

from itertools import combinations

import numpy as np
import pytest

from pipeline import discover, load_model, make_plan
from pipeline.evaluation import circuit_values
from pipeline.evaluation.completeness import nodes_of, out_of
from pipeline.schedule import evaluation
from tests.listening import broken_off, evaluating
from tests.runs import content, toy_config

SEARCH = {"name": "worst_set", "searches": 2, "steps": 4, "sample": 3}
CONFIG = {
    "model": {"name": "toy:trained"},
    "tasks": [{"name": "induction", "count": 2}],
    "shards": {"prompts": 1},
    "methods": [{"name": "eap"}],
    "evaluate": {"edge_fractions": [0.1], "also": [SEARCH]},
}


def rounds(folder):
    return {name: digest for name, digest in content(folder / "evaluations").items() if "worst_set" in name}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return discover(toy_config(tmp_path_factory.mktemp("searched"), **CONFIG), local=True, quiet=True)


def every_gap(run):
    """How far the run's circuit and the model are apart without every set of the circuit's nodes, by their names."""
    circuit = run.circuit("eap", "induction", top=int(run.faithfulness()["n_edges"].item()))
    nodes = nodes_of(circuit).tolist()
    sets = [set(some) for n in range(len(nodes) + 1) for some in combinations(nodes, n)]
    left = [~out_of(run.graph, np.isin(np.arange(run.graph.n_senders), [*some])) for some in sets]
    model = load_model(run.manifest["model"]["name"])
    batch = model.batch(run.prompts("induction"))
    masks = np.stack([*(circuit.mask & one for one in left), *left])
    full, empty, *values = circuit_values(model, [batch], masks).mean(axis=1)
    gaps = np.abs(np.subtract(values[: len(sets)], values[len(sets) :])) / abs(full - empty)
    named = [frozenset(run.graph.senders[node].name for node in some) for some in sets]
    return dict(zip(named, gaps, strict=True))


def found_gaps(run):
    """The sets with which searches have ended, and their gaps."""
    rows = run.evaluations().query("quantity == 'incompleteness'")
    ends = [frozenset(filter(None, one.removeprefix("without:").split("+"))) for one in rows["circuit"]]
    return dict(zip(ends, rows["value"], strict=True))


def test_a_search_finds_what_every_set_of_nodes_bounds(run):
    every, ends = every_gap(run), found_gaps(run)
    assert ends == pytest.approx({one: every[one] for one in ends}, abs=1e-5)
    assert every[frozenset()] < 0.1  # of the whole circuit
    assert 0.4 < max(ends.values()) <= max(every.values()) + 1e-5
    assert max(map(len, ends)) >= 2  # it took more than a step
    assert len(rounds(run.path)) == 2 * 4


@pytest.mark.slow
def test_the_search_of_a_planted_circuit_ends_with_the_worst_of_all_its_sets(tmp_path):
    """One of two heads that do the same is in the circuit: without it the model has the other."""
    evaluate = {"edge_fractions": [0.035], "also": [SEARCH]}
    config = toy_config(tmp_path, **{**CONFIG, "model": {"name": "toy:planted"}, "evaluate": evaluate})
    run = discover(config, local=True, quiet=True)
    every, ends = every_gap(run), found_gaps(run)
    assert ends == pytest.approx({one: every[one] for one in ends}, abs=1e-5)
    assert max(ends.values()) == pytest.approx(max(every.values()), abs=1e-5)


def test_a_plan_counts_all_that_a_search_may_take(run, tmp_path):
    config = toy_config(tmp_path, **CONFIG)
    cost = evaluation(make_plan(config))["induction", "worst_set"]
    assert cost.rows == 1 + 2 * 2 * 4 * 3
    assert cost.evaluations == 2 * cost.rows
    assert cost.forward_passes == 4 * 2 * 2  # four rounds record both prompts of two pairs
    tried = run.evaluations().set_index(["circuit", "quantity"])["value"]["circuit", "tried"]
    assert 2 * tried + 1 <= cost.rows


@pytest.mark.slow
def test_killed_between_rounds_it_goes_on_with_the_next(run, tmp_path):
    config = toy_config(tmp_path, **CONFIG)
    # the second shard of the second round
    broken_off(config, lambda names: sum("worst_set" in one for one in names) == 4)
    (folder,) = tmp_path.iterdir()
    before = rounds(folder)
    assert len(before) == 3
    with evaluating() as again:
        resumed = discover(config, local=True, quiet=True)
    assert len(again) == len(rounds(run.path)) - 3
    assert before.items() <= rounds(resumed.path).items()
    assert rounds(resumed.path) == rounds(run.path)
    assert resumed.evaluations().equals(run.evaluations())
