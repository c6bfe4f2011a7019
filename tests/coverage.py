"""How often intervals hold what they are of, and how often a test rejects what is true: simulated, as a table.

    python -m tests.coverage            writes results/reference/intervals.md; about two minutes of one CPU

Knows distributions, and the scores of a bundled model as one more: prompts are drawn from 512 of IOI with replacement,
so that the true means and the true faithfulness are known. Intervals are those of the code that a run calls.
"""

import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.graph import Graph
from pipeline.core.intervals import Z_95
from pipeline.core.results import EDGE_SCORES
from pipeline.core.scores import EdgeScores, Moments
from pipeline.evaluation.ratio import faithfulness_over
from pipeline.evaluation.significance import discoveries, equivalence, exceeds, independence, no_effect
from pipeline.store.run.aggregate import _Pool
from pipeline.store.run.bootstrap import intervals
from pipeline.store.run.rows import table_of

PROMPTS = (4, 8, 16, 64, 256)
LEVELS = (0.01, 0.05, 0.1)
GRAPH = Graph(n_layers=12, n_heads=3, n_kv_heads=3, d_model=8)  # 3,268 edges: as many simulated means
SAMPLES = 200
POPULATION = 512

PAGE = """\
# How often an interval holds, and a test rejects

`python -m tests.coverage` writes this page. Share of edges whose true mean is in the 95 % interval of n prompts:

{edges}

Student's interval holds in 93 to 97 % of the edges wherever scores spread normally or with heavy tails, and in IOI's
of the bundled model, from 4 prompts on. Where few prompts carry all of a score it does not until about 256, and no
interval can: of a prompt that was not drawn nothing is known. The bootstrap, which has no interval below six prompts,
holds less often than Student's at every n.

Share of Fieller's intervals that hold the faithfulness, and share that has no ends: full and empty are not told apart,
nothing is said, and so nothing wrong.

{ratios}

Share of p-values at most .01, .05 and .1 where the null hypothesis is true, of 500 simulations (a standard error is
.004, .010, .013), and the p of Kolmogorov and Smirnov against a uniform distribution:

{tests}

Equivalence is tested where its null is hardest to reject, by whole counts, and is cautious elsewhere; the others are
uniform. `pytest tests/evaluation/test_significance.py` counts equivalence exactly.
"""

Draw = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]

# Scores of a prompt, drawn per edge; each with the mean that the intervals should hold.
DRAWS: dict[str, tuple[Draw, Any]] = {
    "normal": (lambda rng, shape: rng.normal(0.5, 1.0, shape), 0.5),
    "skewed (log-normal)": (lambda rng, shape: rng.lognormal(0.0, 1.0, shape), np.exp(0.5)),
    "heavy tails (t of 3)": (lambda rng, shape: 0.5 + rng.standard_t(3, shape), 0.5),
    "sparse (one prompt in ten)": (
        lambda rng, shape: np.where(
            rng.random(shape) < 0.1, rng.normal(1.0, 0.3, shape), rng.normal(0, 0.01, shape)
        ),
        0.1,
    ),
}


def coverage(
    draw: Draw, mean: Any, n: int, repeats: int = 5, graph: Graph = GRAPH
) -> tuple[float, float, float]:
    """Shares of intervals that hold the mean: Student's as a run writes them, the normal ones of the same runs, and
    the bootstrap's, NaN where there is none."""
    held = np.zeros(3)
    for repeat in range(repeats):
        rng = np.random.default_rng([n, repeat])
        rows = draw(rng, (n, graph.n_edges))
        pool = _Pool(EDGE_SCORES)
        for shard, part in enumerate(np.array_split(rows, 2)):
            pool.add(table_of(EdgeScores.from_moments(graph, Moments.of(part)), graph, shard), graph)
        frame = pool.table(graph).to_pandas()
        ids, edges = np.arange(n), np.arange(graph.n_edges)
        drawn = intervals(lambda: iter([(ids, rows)]), edges, seed=repeat, task=f"{n}", samples=SAMPLES)  # noqa: B023
        reach = Z_95 * frame["score_sem"]
        ends = (
            (frame["ci_low"], frame["ci_high"]),
            (frame["score"] - reach, frame["score"] + reach),
            drawn,
        )
        held += [np.where(np.isnan(low), np.nan, (low <= mean) & (mean <= high)).mean() for low, high in ends]
    return tuple(held / repeats)


@cache
def real() -> tuple[Graph, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of 512 prompts of IOI in a bundled model: every prompt's scores, and full, empty and circuit (a tenth)."""
    from pipeline import load_model
    from pipeline.core.circuit import Circuit
    from pipeline.evaluation import circuit_values
    from pipeline.methods import EapIg
    from pipeline.tasks import Ioi

    model = load_model("toy:trained")
    batches = model.batch(Ioi(count=POPULATION).pairs(model.tokenizer, seed=0)).split(64)
    scores = EapIg(steps=3).score(model, batches, per_prompt=True)
    circuit = Circuit.from_scores(scores, top=model.graph.n_edges // 10, rank="signed")
    values = circuit_values(model, batches, circuit.mask[None], "logit_diff", "corrupted", None)
    full, empty, kept = np.asarray(values, dtype=np.float64)
    return model.graph, np.asarray(scores.per_prompt, dtype=np.float64), full, empty, kept


def edge_rows(
    prompts: tuple[int, ...] = PROMPTS, repeats: int = 5
) -> Iterator[tuple[str, int, float, float]]:
    """Distribution, prompts, and the shares of edges whose mean is in Student's interval and in the bootstrap's."""
    for name, (draw, mean) in DRAWS.items():
        for n in prompts:
            student, _, drawn = coverage(draw, mean, n, repeats)
            yield name, n, student, drawn


def real_edge_rows(
    prompts: tuple[int, ...] = PROMPTS, repeats: int = 100
) -> Iterator[tuple[str, int, float, float]]:
    """The same of the bundled model's edges, as far as their scores differ between prompts."""
    graph, scores, *_ = real()
    varies = np.ptp(scores, axis=0) > 1e-9 * np.abs(scores).max()
    some = scores[:, varies][:, : GRAPH.n_edges]
    shape = Graph(n_layers=graph.n_layers, n_heads=graph.n_heads, n_kv_heads=graph.n_kv_heads)
    wide = np.zeros((len(scores), shape.n_edges))
    wide[:, : some.shape[1]] = some
    means = wide.mean(axis=0)
    for n in prompts:
        shares = coverage(
            lambda rng, size: wide[rng.integers(len(wide), size=size[0])], means, n, repeats, shape
        )
        still = 1 - some.shape[1] / shape.n_edges  # columns of zeros hold their mean always
        student, _, drawn = ((share - still) / (1 - still) for share in shares)
        yield f"IOI in toy:trained, {some.shape[1]:,} edges", n, student, drawn


def ratio_rows(
    prompts: tuple[int, ...] = PROMPTS, draws: int = 4000
) -> Iterator[tuple[str, int, float, float]]:
    """Distribution, prompts, shares of Fieller's intervals that hold the faithfulness, and that have no ends."""

    def normal(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        below = rng.normal(5.0, 1.5, n)
        return below, np.zeros(n), 0.7 * below + rng.normal(0, 2.0, n)

    def skewed(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        below = rng.lognormal(1.0, 0.8, n)
        return below, np.zeros(n), 0.7 * below * rng.lognormal(-0.125, 0.5, n)

    _, _, full, empty, kept = real()

    def ioi(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        ids = rng.integers(len(full), size=n)
        return full[ids], empty[ids], kept[ids]

    truth = float((kept - empty).mean() / (full - empty).mean())
    for name, draw, mean in (
        ("normal", normal, 0.7),
        ("skewed (log-normal)", skewed, 0.7),
        ("IOI in toy:trained", ioi, truth),
    ):
        for n in prompts:
            rng, held, open_ = np.random.default_rng(n), 0, 0
            for _ in range(draws):
                found = faithfulness_over(*draw(rng, n))
                open_ += found.low is None
                held += found.low is None or found.low <= mean <= found.high
            yield name, n, held / draws, open_ / draws


def p_rows(simulations: int = 500) -> Iterator[tuple[str, list[float], float]]:
    """Of every test where its null is true: the shares of p at most .01, .05 and .1, and the p of Kolmogorov and
    Smirnov against a uniform one (small only where p-values are cautious, or wrong)."""
    from scipy.stats import kstest

    def equal(rng: np.random.Generator, better: float) -> float:
        return equivalence(np.where(rng.random(64) < better, 1.0, -1.0), np.zeros(64))

    def fdr(rng: np.random.Generator) -> float:
        """The least q of 200 edges without effect: at most a in a share a of all draws, for all are false."""
        rows = rng.normal(size=(16, 200))
        error = rows.std(axis=0, ddof=1) / 4
        return float(discoveries(no_effect(rows.mean(axis=0), error, np.full(200, 16))).min())

    def mean(rng: np.random.Generator) -> float:
        rows = rng.normal(size=(8, 1))
        return float(no_effect(rows.mean(axis=0), rows.std(axis=0, ddof=1) / np.sqrt(8), np.full(1, 8))[0])

    tests: dict[str, Callable[[np.random.Generator], float]] = {
        "equivalence, better on half of 64 prompts": lambda rng: equal(rng, 0.5),
        "equivalence, better on .6 of 64 (the margin)": lambda rng: equal(rng, 0.6),
        "independence, 32 prompts, 199 permutations": lambda rng: independence(
            rng.normal(size=32), rng.normal(size=32), 199, int(rng.integers(2**31))
        ),
        "sufficiency, necessity: one among 99 draws": lambda rng: exceeds(
            float(rng.normal()), rng.normal(size=99)
        ),
        "an edge without effect, 8 prompts (p)": mean,
        "200 edges without effect, 16 prompts (least q)": fdr,
    }
    for place, (name, draw) in enumerate(tests.items()):
        rng = np.random.default_rng(place)
        p = np.asarray([draw(rng) for _ in range(simulations)])
        yield name, [float((p <= level).mean()) for level in LEVELS], float(kstest(p, "uniform").pvalue)


def main() -> None:
    rows = [*edge_rows(), *real_edge_rows()]
    text = PAGE.format(
        edges=_table(("scores of prompts", "n", "Student", "bootstrap"), rows),
        ratios=_table(("values of prompts", "n", "Fieller", "without ends"), ratio_rows()),
        tests=_table(
            ("test", ".01", ".05", ".1", "uniform"), [(name, *shares, ks) for name, shares, ks in p_rows()]
        ),
    )
    path = Path(__file__).parents[1] / "results" / "reference" / "intervals.md"
    path.write_text(text)
    sys.stdout.write(text)


def _table(heads: tuple[str, ...], rows: Any) -> str:
    def cell(value: object) -> str:
        return value if isinstance(value, str) else f"{value:,}" if isinstance(value, int) else f"{value:.3f}"

    body = [f"| {' | '.join(map(cell, row))} |".replace("nan", "–") for row in rows]
    return "\n".join([f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}", *body])


if __name__ == "__main__":
    main()
