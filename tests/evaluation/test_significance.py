"""P-values that are valid: under the null they are at most a no more often than in a share a of all draws."""

import numpy as np
import pytest
from scipy.stats import binom

from pipeline.core.circuit import Circuit
from pipeline.core.graph import Graph
from pipeline.evaluation.chance import edge_kinds, random_circuits
from pipeline.evaluation.significance import discoveries, equivalence, exceeds, independence, no_effect

LEVELS = (0.01, 0.05, 0.1)


@pytest.mark.parametrize("n", [5, 32, 200])
@pytest.mark.parametrize("share", [0.4, 0.45, 0.5, 0.6])
def test_equivalence_is_rejected_no_more_often_than_its_level_by_exact_count(n, share):
    """Every count of prompts on which the circuit is better, with its probability where the null is true."""
    full = np.zeros(n)
    p = np.asarray([equivalence(np.where(np.arange(n) < k, 1.0, -1.0), full) for k in range(n + 1)])
    chance = binom.pmf(np.arange(n + 1), n, share)
    for level in LEVELS:
        assert chance[p <= level].sum() <= level + 1e-12


def test_a_circuit_that_is_always_better_is_not_the_model():
    assert equivalence(np.ones(40), np.zeros(40)) < 1e-6
    assert equivalence(np.zeros(40), np.zeros(40)) == pytest.approx(1)


def test_independence_is_rejected_no_more_often_than_its_level():
    rng = np.random.default_rng(0)
    p = [independence(rng.normal(size=16), rng.normal(size=16), 99, seed) for seed in range(500)]
    for level in LEVELS:
        # 500 draws of a valid test: more than this has a probability under 1e-4
        assert np.mean(np.asarray(p) <= level) <= binom.ppf(1 - 1e-4, 500, level) / 500
    assert 0.4 < np.mean(p) < 0.6  # and it is not merely timid


def test_dependence_of_any_shape_is_seen():
    x = np.random.default_rng(1).normal(size=60)
    assert independence(x**2, x, 199) <= 0.01


def test_a_draw_among_draws_has_a_uniform_p_value():
    ranks = np.arange(20.0)
    p = [exceeds(value, np.delete(ranks, int(value))) for value in ranks]
    assert sorted(p) == pytest.approx(np.arange(1, 21) / 20)


def test_a_mean_is_tested_by_student_s_t():
    # quantiles of Student's t: 4.302652730 of 2 degrees and 2.262157163 of 9 leave 5 % outside
    mean, sem = np.asarray([4.302652730, -2.262157163, 0.0, 1.0, 0.0, 3.0]), np.asarray([1, 1, 1, 0, 0, 0.0])
    p = no_effect(mean, sem, np.asarray([3, 10, 5, 5, 5, 1]))
    assert p[:2] == pytest.approx(0.05, abs=1e-9)
    assert p[2:5].tolist() == [1, 0, 1]
    assert np.isnan(p[5])  # one prompt has no spread


def test_q_is_the_least_rate_at_which_benjamini_and_hochberg_reject():
    rng = np.random.default_rng(0)
    p = np.concatenate([rng.random(30), rng.random(10) * 1e-3, [np.nan]])
    q = discoveries(p)
    assert np.isnan(q[-1])
    known = p[:-1]
    for rate in (0.001, 0.01, 0.05, 0.2, 0.7):
        ranked = np.sort(known)
        right = np.flatnonzero(ranked <= rate * np.arange(1, 41) / 40)
        rejected = known <= ranked[right[-1]] if len(right) else np.zeros(40, dtype=bool)
        assert ((q[:-1] <= rate) == rejected).all()
    assert np.isnan(discoveries(np.full(3, np.nan))).all()


def test_few_of_what_is_discovered_is_false():
    """Of 400 edges 40 have an effect; over 200 draws the false share is at most the rate that was asked for."""
    rng, false = np.random.default_rng(1), []
    effect = np.where(np.arange(400) < 40, 1.5, 0.0)
    for _ in range(200):
        rows = rng.normal(effect, 1.0, size=(12, 400))
        found = discoveries(
            no_effect(rows.mean(axis=0), rows.std(axis=0, ddof=1) / np.sqrt(12), np.full(400, 12))
        )
        chosen = found <= 0.1
        false.append(chosen[40:].sum() / max(1, chosen.sum()))
    assert np.mean(false) < 0.1


def test_random_circuits_have_the_size_and_kinds_of_the_circuit():
    graph = Graph(n_layers=3, n_heads=2, n_kv_heads=2)
    rng = np.random.default_rng(0)
    circuit = Circuit(graph, rng.random(graph.n_edges) < 0.2)
    kinds = edge_kinds(graph)
    drawn = random_circuits(circuit, 6, seed=1)
    for one in drawn:
        assert (
            np.bincount(kinds[one.mask], minlength=20) == np.bincount(kinds[circuit.mask], minlength=20)
        ).all()
    assert len({one.mask.tobytes() for one in drawn}) == 6
    assert [one.mask.tobytes() for one in random_circuits(circuit, 3, seed=1)] == [
        o.mask.tobytes() for o in drawn[:3]
    ]
    names = {
        graph.edge_name(int(i)).split("->")[1].rstrip(">")[-1] for i in np.flatnonzero(kinds == kinds[0])
    }
    assert len(names) == 1
