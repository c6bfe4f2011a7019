"""Which removals cost something, counted by hand."""

import numpy as np
import pytest

from pipeline.core.circuit import Circuit
from pipeline.core.graph import Graph
from pipeline.core.scores import EdgeScores
from pipeline.evaluation import Chosen, Minimality, Subject, Values
from pipeline.evaluation.base import CIRCUIT


def costly(without):
    """The share of removals that cost something of a circuit of 1 in every of 4 prompts, whose removals leave these."""
    graph = Graph(1, 1, 1)
    mask = np.zeros(graph.n_edges, dtype=bool)
    mask[: len(without)] = True
    scores = EdgeScores(graph, np.ones(graph.n_edges), np.zeros(graph.n_edges), np.full(graph.n_edges, 4))
    subject = Subject("t", "m", scores, "logit_diff", "corrupted", chosen=Chosen(Circuit(graph, mask), 0.5))
    ran = {f"e{i}": np.asarray(one, dtype=float) for i, one in enumerate(without)}
    values = Values(np.ones(4), np.zeros(4), {CIRCUIT: np.ones(4), **ran})
    found = {
        one.quantity: one.value for one in Minimality().find(subject, values, ()) if one.circuit == CIRCUIT
    }
    assert found["costly_low"] == found["costly_high"] == found["costly"]
    return found["costly"]


def test_a_removal_costs_something_above_its_standard_error():
    assert costly([[0.5] * 4]) == 1  # always the same: no error at all
    assert costly([[1.0] * 4]) == 0  # nothing
    assert costly([[0.0, 1.0, 1.0, 1.0]]) == 0  # 1/4, with an error of 1/4
    assert costly([[0.0, 0.0, 1.0, 1.0], [1.5] * 4]) == pytest.approx(1 / 2)  # 1/2 with .29; better without


def test_rounding_is_no_cost():
    assert costly([[1 - 2e-8] * 4, [1 - 1e-7, 1, 1 - 1e-7, 1 - 1e-7]]) == 0
    assert costly([[1 - 1e-3] * 4]) == 1
