import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import CircuitsError, ScoreError
from pipeline.core.graph import Graph
from pipeline.core.scores import EdgeScores, Moments, NodeScores, rank_order

GRAPH = Graph(1, 1, 1)  # eight edges


def scores_of(values, **fields):
    return EdgeScores.from_moments(GRAPH, Moments.of(np.asarray(values, dtype=np.float64)), **fields)


def split_prompts(seed, n_prompts, offset, cuts):
    """A prompt-by-edge table of very different magnitudes, whole and cut into shards."""
    rng = np.random.default_rng(seed)
    scale = 10.0 ** rng.integers(-6, 7, size=GRAPH.n_edges)
    values = scale * (rng.normal(size=(n_prompts, GRAPH.n_edges)) + offset)
    return values, np.split(values, sorted(cut for cut in cuts if cut < n_prompts))


tables = {
    "seed": st.integers(0, 10_000),
    "n_prompts": st.integers(1, 40),
    "offset": st.sampled_from([0.0, 1.0, 1e3]),
    "cuts": st.sets(st.integers(1, 39), max_size=5),
}


@given(**tables)
def test_merged_shards_have_the_moments_of_all_prompts_together(seed, n_prompts, offset, cuts):
    values, shards = split_prompts(seed, n_prompts, offset, cuts)

    merged = Moments.merge([Moments.of(shard) for shard in shards])

    scale = np.abs(values).max(axis=0)
    assert (merged.n == n_prompts).all()
    assert (np.abs(merged.mean - values.mean(axis=0)) <= 1e-12 * scale).all()
    assert (np.abs(merged.std - values.std(axis=0)) <= 1e-10 * scale).all()


@given(**tables)
def test_the_order_of_shards_changes_nothing_beyond_rounding(seed, n_prompts, offset, cuts):
    values, shards = split_prompts(seed, n_prompts, offset, cuts)

    one = Moments.merge([Moments.of(shard) for shard in shards])
    other = Moments.merge([Moments.of(shard) for shard in reversed(shards)])

    scale = np.abs(values).max(axis=0)
    assert (np.abs(one.mean - other.mean) <= 1e-12 * scale).all()
    assert (np.abs(one.std - other.std) <= 1e-10 * scale).all()


def test_an_edge_that_a_shard_did_not_measure_takes_nothing_from_it():
    measured = Moments.of(np.asarray([[1.0, 2.0], [3.0, 6.0]]))
    half = Moments(np.asarray([0, 2]), np.asarray([np.nan, 4.0]), np.asarray([np.nan, 0.0]))

    merged = Moments.merge([half, measured])

    assert merged.n.tolist() == [2, 4]
    np.testing.assert_allclose(merged.mean, [2.0, 4.0])
    np.testing.assert_allclose(merged.std, [1.0, np.std([4.0, 4.0, 2.0, 6.0])])


def test_an_edge_that_nobody_measured_stays_unmeasured():
    nothing = Moments(np.asarray([0]), np.asarray([np.nan]), np.asarray([np.nan]))

    merged = Moments.merge([nothing, nothing])

    assert merged.n.tolist() == [0]
    assert np.isnan(merged.mean).all()
    assert np.isnan(merged.std).all()


@given(st.integers(0, 10_000), st.lists(st.integers(0, 5), min_size=1, max_size=4))
def test_a_merged_error_bounds_how_far_off_the_mean_over_all_prompts_is(seed, sizes):
    rng = np.random.default_rng(seed)
    n = np.asarray([[size, max(sizes)] for size in sizes])
    means, errors = rng.normal(size=n.shape), np.where(rng.random(n.shape) < 0.5, np.nan, rng.random(n.shape))
    # what is true, as far off as it can be
    worst = means + rng.choice([-1, 1], size=n.shape) * np.nan_to_num(errors)
    parts = [Moments(*row) for row in zip(n, means, np.zeros(n.shape), errors, strict=True)]

    merged = Moments.merge([*parts, Moments(n[0], means[0], np.zeros(2))])  # the last one is exact

    whole = n.sum(axis=0) + n[0]
    off = np.abs((n * (worst - means)).sum(axis=0)) / np.maximum(whole, 1)
    assert (off <= np.nan_to_num(merged.error) + 1e-12).all()
    at_most = (n * np.nan_to_num(errors)).sum(axis=0) / np.maximum(whole, 1)
    np.testing.assert_allclose(np.nan_to_num(merged.error), at_most, rtol=1e-12)
    assert (np.isnan(merged.error) == (at_most == 0)).all()
    assert Moments.merge([Moments(n[0], means[0], np.zeros(2))]).error is None


def test_merged_decisions_follow_the_majority_and_a_tie_keeps():
    parts = [
        scores_of(np.ones((2, 8)), kept=np.asarray([True] * 4 + [False] * 4)),
        scores_of(np.ones((2, 8)), kept=np.asarray([True, False] * 4)),
    ]

    merged = EdgeScores.merge(parts)

    assert merged.kept.tolist() == [True, True, True, True, True, False, True, False]
    three = EdgeScores.merge([parts[0], *[scores_of(np.ones((2, 8)), kept=np.zeros(8, dtype=bool))] * 2])
    assert not three.kept.any()


def test_merging_keeps_the_prompts_own_scores_in_order():
    first, second = np.arange(16.0).reshape(2, 8), np.arange(16.0, 40.0).reshape(3, 8)

    merged = EdgeScores.merge([scores_of(first, per_prompt=first), scores_of(second, per_prompt=second)])

    np.testing.assert_array_equal(merged.per_prompt, np.concatenate([first, second]))


def test_scores_of_different_graphs_do_not_merge():
    other = Graph(1, 1, 1, parallel=True)
    parts = [scores_of(np.ones((1, 8))), EdgeScores.from_moments(other, Moments.of(np.ones((1, 7))))]

    with pytest.raises(CircuitsError, match="different graphs"):
        EdgeScores.merge(parts)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_measured_score_that_is_no_number_is_refused(bad):
    values = np.ones((1, 8))
    values[0, 3] = bad

    with pytest.raises(ScoreError, match="1 of 8"):
        EdgeScores(GRAPH, values[0], np.zeros(8), np.ones(8, dtype=np.int64))


def test_node_scores_refuse_what_is_no_number():
    with pytest.raises(ScoreError, match="1 node"):
        NodeScores(
            GRAPH, np.asarray([0]), (None,), np.asarray([np.nan]), np.zeros(1), np.ones(1, dtype=np.int64)
        )


def test_scores_for_the_wrong_number_of_edges_are_refused():
    with pytest.raises(ValueError, match="8 edges"):
        EdgeScores.from_moments(GRAPH, Moments.of(np.ones((1, 7))))


def test_the_frame_has_a_row_per_edge_with_nulls_where_nothing_was_measured():
    n = np.asarray([0] + [2] * 7)
    score = np.where(n > 0, 1.5, np.nan)

    frame = EdgeScores(GRAPH, score, np.where(n > 0, 0.5, np.nan), n).to_frame()

    assert list(frame.columns) == [
        "edge_id", "sender", "receiver", "score", "score_std", "n_prompts", "kept",
    ]  # fmt: skip
    named = frame.sender.astype(str) + "->" + frame.receiver.astype(str)
    assert tuple(named) == GRAPH.edge_names
    assert frame.edge_id.tolist() == list(range(8))
    assert frame.score.isna().tolist() == [True] + [False] * 7
    assert frame.kept.isna().all()


def test_the_frame_of_node_scores_names_nodes_and_spans():
    nodes = NodeScores(
        GRAPH,
        np.asarray([0, 1]),
        (None, "3"),
        np.asarray([1.0, 2.0]),
        np.zeros(2),
        np.ones(2, dtype=np.int64),
    )

    frame = nodes.to_frame()

    assert frame.node.tolist() == ["input", "a0.h0"]
    assert frame.span.isna().tolist() == [True, False]
    assert frame.span.tolist()[1] == "3"


@given(st.lists(st.one_of(st.just(np.nan), st.integers(-3, 3).map(float)), min_size=1, max_size=20))
def test_ranking_is_by_size_then_by_id_with_unmeasured_edges_last(values):
    score = np.asarray(values)

    absolute = [(-abs(v), i) if not np.isnan(v) else (np.inf, i) for i, v in enumerate(values)]
    signed = [(-v, i) if not np.isnan(v) else (np.inf, i) for i, v in enumerate(values)]

    assert rank_order(score).tolist() == [i for _, i in sorted(absolute)]
    assert rank_order(score, "signed").tolist() == [i for _, i in sorted(signed)]


def test_an_unknown_rank_is_refused():
    with pytest.raises(ValueError, match="absolute or signed"):
        rank_order(np.ones(2), "relative")
