"""The worst set of nodes that a greedy search finds, against all sets and against a search written another way."""

from itertools import combinations

import numpy as np
import pytest

from pipeline.core.circuit import Circuit
from pipeline.core.graph import Graph
from pipeline.core.scores import EdgeScores
from pipeline.evaluation import Chosen, Subject, Values, WorstSet
from pipeline.evaluation.base import CIRCUIT
from pipeline.evaluation.completeness import OF_CIRCUIT, nodes_of

GRAPH = Graph(2, 2, 2)
N = GRAPH.n_edges
SCORES = EdgeScores(GRAPH, np.ones(N), np.zeros(N), np.full(N, 2))
WHOLE = Circuit(GRAPH, np.ones(N, dtype=bool))
SUBJECT = Subject("t", "m", SCORES, "logit_diff", "corrupted", chosen=Chosen(WHOLE, 1.0))
NODES = [GRAPH.senders[node].name for node in nodes_of(WHOLE)]


def ran(circuits, gap):
    """Values of two prompts whose circuits without a set are `gap` of it below the model without it, which is at 1."""

    def value(label):
        what, _, names = label.partition(":")
        return 1 - gap(frozenset(filter(None, names.split("+")))) if what in (CIRCUIT, OF_CIRCUIT) else 1.0

    return {label: np.full(2, float(value(label))) for label in circuits}


def searched(asked, gap):
    """What is found with a gap for every set, and how many rounds of how many circuits it took."""
    values = Values(np.ones(2), np.zeros(2), ran(asked.circuits(SUBJECT), gap))
    sizes = [len(values.circuits)]
    for _ in range(1, asked.rounds):
        more = asked.further(SUBJECT, values)
        assert not more.keys() & values.circuits.keys(), "a set was run twice"
        values = Values(values.full, values.empty, {**values.circuits, **ran(more, gap)})
        sizes.append(len(more))
    assert not asked.further(SUBJECT, values)
    assert sum(sizes) <= asked.n_circuits(GRAPH, decides=False)
    found = asked.find(SUBJECT, values, ())
    return {one.quantity: one.value for one in found if one.circuit == CIRCUIT}, found, sizes


def weights(seed):
    """A gap of every set: what its nodes add, and what pairs of them do."""
    rng = np.random.default_rng(seed)
    single = dict(zip(NODES, rng.normal(size=len(NODES)), strict=True))
    pairs = {frozenset(pair): rng.normal(scale=0.5) for pair in combinations(NODES, 2)}

    def gap(one):
        return abs(sum(single[node] for node in one) + sum(v for pair, v in pairs.items() if pair <= one))

    return gap


def every_set():
    return [frozenset(some) for n in range(len(NODES) + 1) for some in combinations(NODES, n)]


@pytest.mark.parametrize("seed", range(5))
def test_a_search_that_tries_every_node_is_the_greedy_one_and_no_better_than_the_worst_of_all_sets(seed):
    gap = weights(seed)
    numbers, found, sizes = searched(WorstSet(searches=1, steps=len(NODES), sample=len(NODES)), gap)
    chosen = frozenset()
    while better := [chosen | {node} for node in NODES if gap(chosen | {node}) > gap(chosen) + 1e-5]:
        chosen = max(better, key=gap)
    assert numbers["largest"] == pytest.approx(gap(chosen))
    assert numbers["nodes"] == len(chosen)
    assert found[-1].circuit.removeprefix("without:").split("+") == [node for node in NODES if node in chosen]
    assert numbers["largest"] <= max(map(gap, every_set())) + 1e-9
    assert sizes[0] == 1 + 2 * len(NODES)


def test_where_gaps_add_up_the_worst_of_all_sets_is_found():
    size = dict(zip(NODES, (0.5, 0.0, 0.25, 0.125, -0.25, 0.0625), strict=True))

    def gap(one):
        return sum(size[node] for node in one) + 0.5

    numbers, _, _ = searched(WorstSet(searches=2, steps=len(NODES), sample=len(NODES)), gap)
    assert numbers["largest"] == pytest.approx(max(map(gap, every_set())))
    assert numbers["largest"] == pytest.approx(0.9375 + 0.5)
    assert numbers["nodes"] == 4
    assert numbers["tried"] == len(NODES) + 5 + 4 + 3 + 2  # two searches try the same sets once


def test_samples_find_no_more_and_a_larger_number_of_searches_no_less():
    gap = weights(7)
    one, three = (searched(WorstSet(searches=n, steps=3, sample=2), gap)[0]["largest"] for n in (1, 3))
    assert gap(frozenset()) <= one <= three <= max(map(gap, every_set()))


def test_nothing_worse_than_the_whole_and_no_behaviour():
    numbers, found, _ = searched(WorstSet(searches=1, steps=2, sample=2), lambda one: 0.5 - 0.1 * len(one))
    assert (numbers["largest"], numbers["nodes"]) == (0.5, 0)
    assert found[-1].circuit == "without:"
    asked = WorstSet(searches=1, steps=1, sample=1)
    nothing = Values(np.ones(2), np.ones(2), ran(asked.circuits(SUBJECT), lambda _: 0.25))
    assert {one.value for one in asked.find(SUBJECT, nothing, ()) if one.quantity != "tried"} == {None}
