"""The bootstrap over prompts: against a plain loop, against theory, and whatever the cut into shards."""

import json
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.items import Item
from pipeline.core.results import EDGE_SCORES
from pipeline.core.scores import EdgeScores, Moments
from pipeline.store.run import bootstrap, resampled
from pipeline.store.run.aggregate import aggregate, merged_path
from pipeline.store.run.bootstrap import Bootstrap, intervals, weights
from pipeline.store.run.files import read_footer, read_parquet
from tests.store.example import GRAPH, payload_of


def shards_of(scores, sizes):
    """The rows of all prompts cut into shards, as a function that begins anew each time."""

    def shards():
        start = 0
        for size in sizes:
            ids = np.arange(start, start + size)
            yield ids, scores[start : start + size].astype(np.float32)
            start += size

    return shards


def by_hand(scores, drawn):
    """Every sample written out: each prompt as often as it was drawn, then the mean, then percentiles."""
    means = []
    for times in drawn:
        sample = [row for row, n in zip(scores, times, strict=True) for _ in range(n)]
        if sample:
            means.append(np.mean(np.asarray(sample, dtype=np.float64), axis=0))
    return np.percentile(means, [2.5, 97.5], axis=0)


# --- weights -----------------------------------------------------------------------------------------------


def test_weights_are_poisson_of_mean_one():
    drawn = weights(0, "ioi", np.arange(500), 400)
    assert drawn.shape == (400, 500)
    n = drawn.size
    for k, share in enumerate([0.36788, 0.36788, 0.18394, 0.06131, 0.01533, 0.00307]):
        assert abs((drawn == k).mean() - share) < 4 * np.sqrt(share / n)
    assert abs(np.corrcoef(drawn[:, 0], drawn[:, 1])[0, 1]) < 0.2
    assert abs(np.corrcoef(drawn[0], drawn[1])[0, 1]) < 0.2


@given(st.integers(0, 2**40), st.lists(st.integers(0, 10**6), min_size=1, max_size=20), st.integers(40, 60))
def test_a_prompts_weights_depend_on_seed_task_and_prompt_alone(seed, ids, samples):
    together = weights(seed, "ioi", np.array(ids), samples)
    for column, prompt_id in enumerate(ids):
        alone = weights(seed, "ioi", np.array([prompt_id]), samples + 7)
        np.testing.assert_array_equal(together[:, column], alone[:samples, 0])


def test_other_seeds_tasks_and_prompts_have_other_weights():
    rows = [weights(*key, np.array([i]), 200)[:, 0] for key in ((0, "a"), (1, "a"), (0, "b")) for i in (0, 1)]
    assert len({row.tobytes() for row in rows}) == 6


def test_weights_stay_what_they_are():
    """A run that is resumed years later, elsewhere, draws the same samples."""
    assert weights(0, "ioi", np.array([0, 1, 10**9]), 8).T.tolist() == [
        [2, 2, 1, 1, 0, 1, 3, 0],
        [1, 0, 2, 0, 1, 3, 1, 0],
        [1, 1, 0, 1, 0, 0, 2, 4],
    ]


# --- intervals ---------------------------------------------------------------------------------------------


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=6).filter(lambda sizes: sum(sizes) > 5),
    st.integers(0, 2**32 - 1),
)
def test_any_cut_into_shards_is_the_bootstrap_written_out(sizes, seed):
    n = sum(sizes)
    scores = np.random.default_rng(seed).normal(size=(n, 5)).astype(np.float32)
    low, high = intervals(shards_of(scores, sizes), np.arange(5), seed=seed, task="t", samples=60)
    expected = by_hand(scores, weights(seed, "t", np.arange(n), 60))
    np.testing.assert_allclose([low, high], expected, rtol=1e-11, atol=1e-13)


def test_chosen_edges_and_small_portions_of_them_change_nothing(monkeypatch):
    scores = np.random.default_rng(1).normal(size=(30, 50)).astype(np.float32)
    shards = shards_of(scores, [10, 20])
    whole = intervals(shards, np.arange(50), seed=0, task="t", samples=100)
    chosen = np.array([3, 40, 7])
    some = intervals(shards, chosen, seed=0, task="t", samples=100)
    monkeypatch.setattr(bootstrap, "_CHUNK_BYTES", 100 * 8 * 7)
    portions = intervals(shards, np.arange(50), seed=0, task="t", samples=100)
    for side in range(2):
        np.testing.assert_allclose(portions[side], whole[side], rtol=1e-12)
        np.testing.assert_allclose(some[side], whole[side][chosen], rtol=1e-12)


def test_prompts_that_did_not_measure_an_edge_are_left_out_of_it():
    scores = np.random.default_rng(2).normal(size=(12, 4)).astype(np.float32)
    scores[:5, 1] = np.nan
    scores[:, 2] = np.nan
    scores[5:, 3] = np.nan
    low, high = intervals(shards_of(scores, [4, 4, 4]), np.arange(4), seed=0, task="t", samples=80)
    drawn = weights(0, "t", np.arange(12), 80)
    np.testing.assert_allclose((low[0], high[0]), by_hand(scores[:, :1], drawn)[:, 0], rtol=1e-11)
    np.testing.assert_allclose((low[1], high[1]), by_hand(scores[5:, 1:2], drawn[:, 5:])[:, 0], rtol=1e-11)
    assert np.isnan([low[2], high[2]]).all(), "nothing was measured"
    assert np.isnan([low[3], high[3]]).all(), "five prompts are too few for an interval of 95 %"


def test_on_many_prompts_it_is_the_normal_interval_and_covers_as_often():
    """2,000 edges with known means: 95 % of the intervals hold them, as wide as the normal ones."""
    rng = np.random.default_rng(3)
    truth = rng.normal(size=2000)
    scores = truth + rng.normal(size=(200, 2000)) * rng.uniform(0.5, 2, size=2000)
    low, high = intervals(shards_of(scores, [50] * 4), np.arange(2000), seed=0, task="t", samples=400)
    covered = ((low <= truth) & (truth <= high)).mean()
    assert 0.92 < covered < 0.97
    normal = 2 * NormalDist().inv_cdf(0.975) * scores.std(axis=0, ddof=1) / np.sqrt(200)
    assert np.mean((high - low) / normal) == pytest.approx(1, abs=0.02)


def test_it_sees_skew_where_the_normal_interval_does_not():
    scores = np.random.default_rng(4).exponential(size=(40, 500)) ** 2
    low, high = intervals(shards_of(scores, [40]), np.arange(500), seed=0, task="t", samples=400)
    mean = scores.mean(axis=0)
    assert np.median((high - mean) / (mean - low)) > 1.15


# --- in a run ----------------------------------------------------------------------------------------------


@pytest.fixture
def filled(new_run):
    run = new_run(tasks={"ioi": 3}, methods={"eap": "edge", "acdc": "edge"}, prompt_scores={"eap": "float32"})
    for item in run.items:
        run.commit(item, payload_of(item))
    return run


def merged(run, method="eap"):
    return read_parquet(run.path / merged_path(EDGE_SCORES, "ioi", method)).to_pandas()


def test_merged_scores_have_the_interval_beside_students(filled):
    assert aggregate(filled, Bootstrap(samples=200)) == []
    rows = np.concatenate([payload_of(Item("scores", "ioi", "eap", i)).per_prompt for i in range(3)])
    expected = by_hand(rows.astype(np.float32), weights(0, "ioi", np.arange(6), 200))
    frame = merged(filled)
    assert str(frame["boot_low"].dtype) == "float32"
    np.testing.assert_allclose(frame[["boot_low", "boot_high"]].T, expected, rtol=1e-5, atol=1e-6)
    assert merged(filled, "acdc")["boot_low"].isna().all(), "which has no scores of single prompts"
    with_it = merged(filled)
    assert aggregate(filled) == []
    without = merged(filled)
    assert without["boot_low"].isna().all()
    columns = [name for name in without if not name.startswith("boot_")]
    assert with_it[columns].equals(without[columns])


def test_only_the_strongest_edges_where_asked(filled):
    aggregate(filled, Bootstrap(samples=50, top=10))
    frame = merged(filled)
    assert (frame["boot_low"].notna() == (frame["rank"] <= 10)).all()
    some = frame.set_index("edge_id")
    aggregate(filled, Bootstrap(samples=50))
    every = merged(filled).set_index("edge_id")
    best = some.index[some["rank"] <= 10]
    np.testing.assert_allclose(some["boot_high"][best], every["boot_high"][best], rtol=1e-6)


def test_it_is_drawn_anew_only_when_something_has_changed(filled, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        resampled, "intervals", lambda *args, **options: drawn.append(1) or intervals(*args, **options)
    )
    path = filled.path / merged_path(EDGE_SCORES, "ioi", "eap")
    aggregate(filled, Bootstrap(samples=50))
    before = path.read_bytes()
    aggregate(filled, Bootstrap(samples=50))
    assert (len(drawn), path.read_bytes()) == (1, before)
    assert json.loads(read_footer(path)["bootstrap"])["samples"] == 50
    aggregate(filled, Bootstrap(samples=60))
    aggregate(filled, Bootstrap(samples=60, top=3))
    assert len(drawn) == 3
    item = Item("scores", "ioi", "eap", 1)
    rows = payload_of(item).per_prompt + 1
    filled.commit(item, EdgeScores.from_moments(GRAPH, Moments.of(rows), per_prompt=rows))
    aggregate(filled, Bootstrap(samples=60, top=3))
    assert len(drawn) == 4
    path.write_bytes(path.read_bytes()[:-9])
    aggregate(filled, Bootstrap(samples=60, top=3))
    assert len(drawn) == 5
