"""Which edges each rule takes, against brute force and against the rules written out plainly."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import CircuitsError
from pipeline.core.graph import Graph
from pipeline.core.scores import EdgeScores, Moments, rank_order
from pipeline.core.selection import RULES, select

TINY = Graph(n_layers=1, n_heads=1, n_kv_heads=1)
SMALL = Graph(n_layers=2, n_heads=2, n_kv_heads=1, kv="kv_head")


def scores_of(graph: Graph, seed: int, *, unmeasured: int = 0, prompts: int = 6) -> EdgeScores:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(prompts, graph.n_edges)) + rng.normal(size=graph.n_edges)
    values = np.round(values, 1)  # ties
    moments = Moments.of(values)
    score, std, n = moments.mean.copy(), moments.std.copy(), moments.n.copy()
    gone = rng.choice(graph.n_edges, unmeasured, replace=False)
    score[gone], std[gone], n[gone] = np.nan, np.nan, 0
    return EdgeScores(graph, score, std, n)


@given(
    seed=st.integers(0, 10**6),
    n=st.integers(0, SMALL.n_edges),
    rule=st.sampled_from([rule for rule in RULES if rule != "ilp"]),
    unmeasured=st.integers(0, SMALL.n_edges),
)
def test_a_rule_takes_so_many_measured_edges_at_most(seed, n, rule, unmeasured):
    scores = scores_of(SMALL, seed, unmeasured=unmeasured)
    mask = select(scores, n, rule)
    assert mask.sum() <= n
    assert not mask[np.isnan(scores.score)].any()
    if rule in ("absolute", "signed", "positive_half"):
        assert mask.sum() == min(n, SMALL.n_edges - unmeasured)


@given(
    seed=st.integers(0, 10**6), n=st.integers(0, SMALL.n_edges), rank=st.sampled_from(["absolute", "signed"])
)
def test_the_largest_are_the_first_of_the_ranking_ties_included(seed, n, rank):
    scores = scores_of(SMALL, seed)
    assert set(np.flatnonzero(select(scores, n, rank))) == set(rank_order(scores.score, rank)[:n].tolist())


@given(seed=st.integers(0, 10**6), n=st.integers(0, SMALL.n_edges), signed=st.booleans())
def test_greedy_takes_the_best_edge_into_what_is_reached(seed, n, signed):
    scores = scores_of(SMALL, seed)
    worth = scores.score if signed else np.abs(scores.score)
    taken: list[int] = []
    reached = {SMALL.logits_receiver}
    for _ in range(n):  # as the rule is told, edge by edge
        open_ = [
            e for e in range(SMALL.n_edges) if int(SMALL.edge_receivers[e]) in reached and e not in taken
        ]
        if not open_:
            break
        taken.append(max(open_, key=lambda e: (worth[e], -e)))
        sender = int(SMALL.edge_senders[taken[-1]])
        reached |= {r for r in range(SMALL.n_receivers) if sender in SMALL.senders_fed_by(r)}
    rule = "greedy_signed" if signed else "greedy"
    assert set(np.flatnonzero(select(scores, n, rule))) == set(taken)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("n", range(1, 9))
def test_the_ilp_is_the_best_set_in_which_every_node_is_read_and_reads(seed, n):
    scores = scores_of(TINY, seed)

    def holds(edges: tuple[int, ...]) -> bool:
        writes = {int(TINY.edge_senders[e]) for e in edges}
        reads = {s for e in edges for s in TINY.senders_fed_by(int(TINY.edge_receivers[e]))}
        return writes - {0} <= reads <= writes

    size = np.abs(scores.score)
    best = max(
        (
            size[list(edges)].sum()
            for k in range(n + 1)
            for edges in combinations(range(TINY.n_edges), k)
            if holds(edges)
        ),
        default=0.0,
    )
    mask = select(scores, n, "ilp")
    assert mask.sum() <= n
    assert holds(tuple(np.flatnonzero(mask)))
    assert size[mask].sum() == pytest.approx(best, abs=1e-9)


def test_edges_whose_sign_is_not_sure_are_left_out():
    n = np.full(TINY.n_edges, 4)
    std = np.full(TINY.n_edges, 1.0)  # a standard error of 1 / sqrt(3); Student's quantile at 4 is 3.182
    score = np.asarray([1.83, 1.84, -1.85, -1.82, 0, 0, 0, 0])
    assert np.flatnonzero(select(EdgeScores(TINY, score, std, n), 8, "stable_sign")).tolist() == [1, 2]


def test_half_of_the_edges_are_the_largest_positive_ones():
    score = np.asarray([1.0, 2.0, -9.0, -8.0, 3.0, -0.5, 0.25, -7.0])
    one = EdgeScores(TINY, score, np.zeros(8), np.full(8, 3))
    assert np.flatnonzero(select(one, 4, "positive_half")).tolist() == [1, 2, 3, 4]


def test_a_rule_that_is_not_there_is_named():
    with pytest.raises(CircuitsError, match="rank is one of absolute, signed"):
        select(scores_of(TINY, 0), 3, "best")
