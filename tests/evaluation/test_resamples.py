"""Circuits of resampled prompts: overlaps by hand, certified edges by brute force over all sets of prompts."""

from itertools import combinations

import numpy as np
import pytest

from pipeline.core.graph import Graph
from pipeline.core.prompt_rows import PromptRows
from pipeline.evaluation.resamples import bootstrap, certified, jaccards, lower_bound, overlap_of

GRAPH = Graph(n_layers=1, n_heads=1, n_kv_heads=1)  # 8 edges


@pytest.mark.parametrize("rule", ["absolute", "stable_sign"])
def test_scores_in_pieces_are_gone_through_block_after_block(rule, monkeypatch):
    rows = np.random.default_rng(7).normal(0.5, 1, size=(40, 8)).astype(np.float32)
    whole = bootstrap(GRAPH, rows, 3, rule, 30, seed=1)
    monkeypatch.setattr("pipeline.core.prompt_rows._BLOCK_BYTES", 8 * 4 * 9)
    monkeypatch.setattr("pipeline.evaluation.resamples._SUM_BYTES", 8 * 8 * 4)
    pieces = PromptRows(40, lambda: iter(np.array_split(rows, 13)))
    assert max(map(len, pieces.blocks())) <= 12
    assert (np.concatenate(list(pieces.blocks())) == rows).all()
    assert (bootstrap(GRAPH, pieces, 3, rule, 30, seed=1) == whole).all()


def test_overlaps_are_common_edges_among_those_of_either():
    circuits = np.asarray([[1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]], dtype=bool)
    found, sizes = jaccards(circuits)
    assert found[0].tolist() == [1, pytest.approx(1 / 3), 0, 0]
    assert found[2, 3] == 1  # two empty circuits are the same
    assert sizes.tolist() == [2, 2, 0, 0]


def test_prompts_that_agree_give_one_circuit_and_prompts_of_noise_give_that_of_chance():
    same = np.tile(np.arange(8.0), (6, 1))
    circuits = bootstrap(GRAPH, same, 3, "absolute", 20, seed=0)
    assert (circuits == [False] * 5 + [True] * 3).all()
    assert overlap_of(circuits, seed=0).mean == 1

    large = Graph(n_layers=3, n_heads=4, n_kv_heads=4)
    noise = np.random.default_rng(0).normal(size=(3000, large.n_edges))
    k = 20
    rng = np.random.default_rng(1)
    drawn = np.stack([rng.permutation(large.n_edges) < k for _ in range(60)])
    found = overlap_of(drawn, seed=0)
    assert found.null == pytest.approx(k / (2 * large.n_edges - k))
    assert found.low < found.null * 1.2
    assert found.high > found.null * 0.8
    of_noise = overlap_of(bootstrap(large, noise, k, "signed", 30, seed=0), seed=0)
    assert of_noise.mean < 0.6  # bootstraps share prompts: above chance, far from stable


def test_the_bound_of_a_vote_is_that_of_clopper_and_pearson():
    # the share p at which `right` or more of n are seen with probability alpha
    from scipy.stats import binom

    p = lower_bound(970, 1000, 0.001)
    assert binom.sf(969, 1000, p) == pytest.approx(0.001, rel=1e-6)
    assert lower_bound(0, 10, 0.05) == 0


def test_certified_edges_stay_in_the_majority_when_prompts_are_taken_away():
    """By brute force: whatever `radius` prompts go, most deletions of the rest keep a certified edge."""
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(6, 8)) * 0.5 + np.asarray([3, 2.5, 0.6, 0.5, 0.4, 0, 0, 0])
    p_del = 0.6
    found = certified(GRAPH, rows, 2, "signed", p_del, votes=4000, alpha=0.001, seed=0)
    assert found.included[:2].all()
    assert not (found.included & found.excluded).any()

    def share(prompts: tuple[int, ...]) -> np.ndarray:
        """The exact probability that a deletion of these prompts has each edge in its circuit."""
        total = np.zeros(8)
        for size in range(1, len(prompts) + 1):
            for kept in combinations(prompts, size):
                mean = rows[list(kept)].mean(axis=0)
                mask = np.zeros(8)
                mask[np.argsort(-mean, kind="stable")[:2]] = 1
                total += mask * (1 - p_del) ** size * p_del ** (len(prompts) - size)
        return total

    assert (share(tuple(range(6)))[found.included] > 0.5).all()
    for gone in combinations(range(6), found.radius):
        left = tuple(i for i in range(6) if i not in gone)
        assert (share(left)[found.included] > 0.5).all()


@pytest.mark.parametrize("rule", ["absolute", "stable_sign"])
def test_a_resample_is_the_selection_from_its_own_mean_and_spread(rule):
    from pipeline.core.scores import EdgeScores, Moments
    from pipeline.core.selection import select

    rows = np.random.default_rng(5).normal(1, 1, size=(9, 8))
    circuits = bootstrap(GRAPH, rows, 4, rule, 12, seed=2)
    counts = np.random.default_rng(2).multinomial(9, np.full(9, 1 / 9), size=12)
    for mask, weight in zip(circuits, counts, strict=True):
        sample = np.repeat(rows, weight, axis=0)
        assert (mask == select(EdgeScores.from_moments(GRAPH, Moments.of(sample)), 4, rule)).all()
