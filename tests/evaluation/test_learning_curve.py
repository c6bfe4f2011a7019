"""How many prompts are enough: overlaps of disjoint sets by hand, and a number only where it is known."""

import numpy as np
import pytest

from pipeline.core.circuit import Circuit
from pipeline.core.graph import Graph
from pipeline.core.scores import EdgeScores, Moments
from pipeline.evaluation import Chosen, LearningCurve, Subject
from pipeline.evaluation.learning_curve import sizes
from pipeline.evaluation.resamples import halves, prompts_for
from pipeline.report.learning_figure import learning_svg

GRAPH = Graph(n_layers=3, n_heads=4, n_kv_heads=4)


def subject_of(rows, size, kept=None):
    scores = EdgeScores.from_moments(GRAPH, Moments.of(rows), kept=kept)
    chosen = Chosen(Circuit.from_scores(scores, top=size, rank="signed"), 0.1)
    return Subject("t", "eap", scores, "m", "a", "signed", chosen=chosen, rows_of_prompts=lambda: rows)


def test_the_overlap_is_that_of_the_selections_from_disjoint_sets():
    rows = np.random.default_rng(0).normal(size=(11, GRAPH.n_edges))
    found = halves(GRAPH, rows, 4, 7, "absolute", 5, seed=3)
    rng = np.random.default_rng([3, 4])
    for overlap in found:
        order = rng.permutation(11)
        tops = [set(np.argsort(-abs(rows[ids].mean(axis=0)))[:7]) for ids in (order[:4], order[4:8])]
        assert overlap == pytest.approx(len(tops[0] & tops[1]) / len(tops[0] | tops[1]))


def test_numbers_of_prompts_double_as_long_as_two_sets_fit():
    assert (sizes(7), sizes(8), sizes(32), sizes(50)) == ([], [4], [4, 8, 16], [4, 8, 16, 25])


def test_a_curve_that_follows_a_power_of_n_is_followed_to_the_bar():
    curve = [(n, 1 - 2 * n**-0.5) for n in (8, 16, 32)]
    assert prompts_for(curve, 0.8) == 100  # 2 / sqrt(100) = 0.2
    assert prompts_for(curve, 0.9) is None  # 400 are more than eight times what was seen
    assert prompts_for(curve[:2], 0.8) is None
    assert prompts_for([(4, 0.3), (8, 0.3), (16, 0.3)], 0.8) is None
    assert prompts_for([], 0.8) is None


def test_a_bar_that_is_reached_lies_between_what_was_measured():
    assert prompts_for([(4, 0.6), (16, 1.0)], 0.8) == 8  # half of the way in log n
    assert prompts_for([(4, 0.9), (8, 0.95)], 0.8) == 4
    assert prompts_for([(4, 0.9), (8, 0.7), (16, 0.8)], 0.8) == 16  # it has to stay


def test_what_is_extrapolated_is_what_more_prompts_then_have():
    rng = np.random.default_rng(2)
    truth = rng.normal(size=GRAPH.n_edges)
    rows = truth + rng.normal(0, 1.5, size=(2000, GRAPH.n_edges))
    few = [(n, float(halves(GRAPH, rows[:128], n, 25, "signed", 40, 0).mean())) for n in (4, 8, 16, 32, 64)]
    enough = prompts_for(few, 0.8)
    assert enough is not None
    assert halves(GRAPH, rows, int(enough), 25, "signed", 20, 0).mean() == pytest.approx(0.8, abs=0.06)


def test_without_scores_of_prompts_nothing_is_known():
    rows = np.random.default_rng(0).normal(size=(16, GRAPH.n_edges))
    known = LearningCurve(draws=3).find(subject_of(rows, 9), None, ())
    assert [(one.quantity, one.circuit) for one in known[:1]] == [("jaccard", "prompts-4")]
    assert {one.quantity: one.value for one in known}["null"] == pytest.approx(9 / (2 * GRAPH.n_edges - 9))
    decided = subject_of(rows, 9, kept=np.ones(GRAPH.n_edges, dtype=bool))
    for subject in (decided, subject_of(rows[:7], 9)):
        found = LearningCurve().find(subject, None, ())
        assert {one.quantity: one.value for one in found} == {"null": None, "enough": None, "bar": 0.8}


def test_the_figure_says_what_is_enough_or_that_it_is_not_known():
    rows = np.random.default_rng(1).normal(3, 1e-3, size=(32, GRAPH.n_edges)) * np.arange(GRAPH.n_edges)
    steady = LearningCurve(draws=3).find(subject_of(rows, 9), None, ())
    table = [
        {"evaluation": "learning_curve", "method": "eap", "circuit": one.circuit, "quantity": one.quantity}
        | {"value": one.value}
        for one in steady
    ]
    drawn = learning_svg(table)
    assert "eap: an overlap of 0.8 needs 4 prompts" in drawn
    assert drawn.count('class="mark"') == 4  # of three numbers, and of the legend
    unknown = [row | {"value": None} if row["quantity"] == "enough" else row for row in table]
    assert "is not known from these" in learning_svg(unknown)
    assert learning_svg([row | {"value": None} for row in table]) is None
