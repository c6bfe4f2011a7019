"""How often the 95 % intervals of merged scores hold the true mean: many simulated runs of few prompts.

`pytest -m slow -s tests/store/run/test_coverage.py` prints the table that `flows/README.md` shows.
"""

import numpy as np
import pytest

from pipeline.core.graph import Graph
from pipeline.core.intervals import Z_95
from pipeline.core.results import EDGE_SCORES
from pipeline.core.scores import EdgeScores, Moments
from pipeline.store.run.aggregate import _Pool
from pipeline.store.run.bootstrap import FEWEST, intervals
from pipeline.store.run.rows import table_of

GRAPH = Graph(n_layers=12, n_heads=3, n_kv_heads=3, d_model=8)  # 3,268 edges: as many simulated means
PROMPTS = (2, 4, 16, 64)
REPEATS = 5
SAMPLES = 200

# Scores of a prompt, drawn per edge; each with the mean that the intervals should hold.
DRAWS = {
    "normal": (lambda rng, shape: rng.normal(0.5, 1.0, shape), 0.5),
    "skewed (log-normal)": (lambda rng, shape: rng.lognormal(0.0, 1.0, shape), np.exp(0.5)),
    "sparse (one prompt in ten)": (
        lambda rng, shape: np.where(
            rng.random(shape) < 0.1, rng.normal(1.0, 0.3, shape), rng.normal(0, 0.01, shape)
        ),
        0.1,
    ),
}


def coverage(draw, mean, n: int) -> tuple[float, float, float]:
    """Shares of intervals that hold the mean: Student's as a run writes them, the normal ones of the same runs, and
    the bootstrap's, NaN where there is none."""
    held = np.zeros(3)
    for repeat in range(REPEATS):
        rng = np.random.default_rng([n, repeat])
        rows = draw(rng, (n, GRAPH.n_edges))
        pool = _Pool(EDGE_SCORES)
        for shard, part in enumerate(np.array_split(rows, 2)):
            pool.add(table_of(EdgeScores.from_moments(GRAPH, Moments.of(part)), GRAPH, shard), GRAPH)
        frame = pool.table(GRAPH).to_pandas()
        ids, edges = np.arange(n), np.arange(GRAPH.n_edges)
        drawn = intervals(lambda: iter([(ids, rows)]), edges, seed=repeat, task=f"{n}", samples=SAMPLES)  # noqa: B023
        reach = Z_95 * frame["score_sem"]
        ends = (
            (frame["ci_low"], frame["ci_high"]),
            (frame["score"] - reach, frame["score"] + reach),
            drawn,
        )
        held += [np.where(np.isnan(low), np.nan, (low <= mean) & (mean <= high)).mean() for low, high in ends]
    return tuple(held / REPEATS)


@pytest.fixture(scope="module")
def measured():
    found = {(name, n): coverage(*DRAWS[name], n) for name in DRAWS for n in PROMPTS}
    print("\n| scores | prompts | Student | normal, 1.96 | bootstrap |\n|---|---|---|---|---|")
    for (name, n), shares in found.items():
        print(f"| {name} | {n} | " + " | ".join(f"{share:.2f}" for share in shares) + " |")
    return found


@pytest.mark.slow
def test_an_interval_of_normal_scores_holds_the_mean_in_95_of_100_runs_whatever_their_size(measured):
    for n in PROMPTS:
        assert measured["normal", n][0] == pytest.approx(
            0.95, abs=0.006
        )  # 16,340 means: four standard errors


@pytest.mark.slow
def test_what_is_said_of_few_prompts_is_so(measured):
    """The numbers of the table, to two digits; bounds, for streams of random numbers may change."""
    for (name, n), (student, normal, bootstrap) in measured.items():
        assert student >= normal
        assert np.isnan(bootstrap) == (n < FEWEST)
        assert (name, n) != ("normal", 2) or normal == pytest.approx(0.70, abs=0.01)
    assert measured["sparse (one prompt in ten)", 16][0] < 0.9
