"""The areas of the MIB benchmark on curves whose areas are known, and when they are not known."""

import numpy as np
import pytest

from pipeline.core.graph import Graph
from pipeline.core.scores import EdgeScores
from pipeline.evaluation import CprCmd, Subject
from pipeline.evaluation.cpr_cmd import SIZES

GRAPH = Graph(n_layers=1, n_heads=1, n_kv_heads=1)


def found(curve, rank="signed"):
    scores = EdgeScores(GRAPH, np.zeros(8), np.zeros(8), np.full(8, 2))
    subject = Subject("task", "method", scores, "logit_diff", "corrupted", rank)
    return {one.quantity: one.value for one in CprCmd().find(subject, None, tuple(curve))}


def areas(values):
    curve = list(zip(SIZES, values, strict=True))
    return found(curve)["cpr"], found(curve, "absolute")["cmd"]


def test_a_circuit_that_is_faithful_at_every_size_has_all_of_the_area():
    assert areas([1.0] * 10) == (pytest.approx(0.999, abs=1e-12), pytest.approx(0.0, abs=1e-12))


def test_one_that_is_faithful_at_the_whole_graph_alone_has_a_quarter():
    cpr, cmd = areas([0.0] * 9 + [1.0])
    assert cpr == pytest.approx(0.25, abs=1e-12)  # a triangle over the last half
    assert cmd == pytest.approx(0.499 + 0.25, abs=1e-12)


def test_a_curve_above_one_counts_for_cpr_and_against_cmd():
    """By hand: f = 2 up to .1, then 1; between .1 and .2 half of each."""
    values = [2.0] * 7 + [1.0] * 3
    cpr, cmd = areas(values)
    assert cpr == pytest.approx(2 * 0.099 + 1.5 * 0.1 + 0.8, abs=1e-12)
    assert cmd == pytest.approx(0.099 + 0.5 * 0.1, abs=1e-12)


def test_over_the_logarithm_every_decade_counts_the_same():
    """f = log10(1000 k) / 3 is a line over log k: its mean is one half."""
    values = [np.log10(1000 * k) / 3 for k in SIZES]
    assert found(zip(SIZES, values, strict=True))["log_area"] == pytest.approx(0.5, abs=1e-12)


@pytest.mark.parametrize(
    ("rank", "null"),
    [("signed", {"cmd"}), ("absolute", {"cpr"}), ("greedy", {"cpr", "cmd"})],
)
def test_an_area_belongs_to_its_own_ranking(rank, null):
    assert {
        name for name, value in found(zip(SIZES, [1.0] * 10, strict=True), rank).items() if value is None
    } == null


def test_other_sizes_and_unknown_points_have_no_area():
    assert found([(0.1, 1.0), (1.0, 1.0)])["cpr"] is None
    holes = [None, *[1.0] * 9]
    assert found(zip(SIZES, holes, strict=True))["cpr"] is None
    assert found(zip(SIZES, holes, strict=True))["smallest"] == 0.002
    assert found([])["smallest"] is None
