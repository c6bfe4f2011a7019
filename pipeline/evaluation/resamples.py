"""How a circuit changes with the prompts that it comes from, from the scores of single prompts: no model pass.

Knows arrays of scores and rules of selection. Does not know tasks, files or models.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, exp, floor, log

import numpy as np
from jaxtyping import Bool, Float, Int

from pipeline.core.graph import Graph
from pipeline.core.prompt_rows import AnyRows, PromptRows
from pipeline.core.scores import EdgeScores, Moments
from pipeline.core.selection import SPREAD, select

# Of sums that are held together, a row per sample: scores are gone through once for so many.
_SUM_BYTES = 1 << 26
# A line through fewer points says nothing; nor does one so many times beyond what was seen.
_FEWEST_POINTS, _FURTHEST = 3, 8


@dataclass(frozen=True)
class Overlap:
    """The mean pairwise Jaccard overlap of circuits, its 95 % interval, and what random sets of their sizes have."""

    mean: float
    low: float
    high: float
    null: float


def bootstrap(
    graph: Graph,
    scores: AnyRows,
    size: int,
    rule: str,
    resamples: int,
    seed: int,
) -> Bool[np.ndarray, "resample edge"]:
    """The circuits of `size` edges that the rule selects from resamples of the prompts, drawn with replacement."""
    n = len(scores)
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(n, np.full(n, 1 / n), size=resamples)
    return np.stack([select(one, size, rule) for one in weighted(graph, scores, counts, rule)])


def overlap_of(circuits: Bool[np.ndarray, "resample edge"], seed: int, samples: int = 1000) -> Overlap:
    """Mean Jaccard over pairs; the interval resamples the circuits and leaves out a circuit paired with itself. For
    sets of k of N edges the null is k / (2N - k)."""
    n_edges = circuits.shape[1]
    jaccard, sizes = jaccards(circuits)
    n = len(circuits)
    pairs = ~np.eye(n, dtype=bool)
    rng = np.random.default_rng(seed)
    drawn: list[float] = []
    for _ in range(samples):
        chosen = rng.integers(n, size=n)
        differ = chosen[:, None] != chosen[None]
        if differ.any():
            drawn.append(float(jaccard[np.ix_(chosen, chosen)][differ].mean()))
    low, high = np.quantile(drawn, [0.025, 0.975])
    k = float(sizes.mean())
    return Overlap(float(jaccard[pairs].mean()), float(low), float(high), k / (2 * n_edges - k))


def jaccards(
    circuits: Bool[np.ndarray, "resample edge"],
) -> tuple[Float[np.ndarray, "resample other"], Float[np.ndarray, " resample"]]:
    """The Jaccard overlap of every two circuits, and their sizes; 1 of two empty ones."""
    as_numbers = circuits.astype(np.float32)
    common = (as_numbers @ as_numbers.T).astype(np.float64)
    sizes = circuits.sum(axis=1).astype(np.float64)
    either = sizes[:, None] + sizes[None] - common
    return np.divide(common, either, out=np.ones_like(common), where=either > 0), sizes


def halves(
    graph: Graph,
    scores: AnyRows,
    n: int,
    size: int,
    rule: str,
    draws: int,
    seed: int,
) -> Float[np.ndarray, " draw"]:
    """The Jaccard overlap of the circuits of two disjoint sets of n prompts, of as many pairs of sets as are drawn."""
    rng = np.random.default_rng([seed, n])
    orders = [rng.permutation(len(scores)) for _ in range(draws)]
    weights = np.zeros((2 * draws, len(scores)), dtype=np.int64)
    for draw, order in enumerate(orders):
        weights[2 * draw, order[:n]] = weights[2 * draw + 1, order[n : 2 * n]] = 1
    circuits = (select(one, size, rule) for one in weighted(graph, scores, weights, rule))
    return np.asarray([jaccards(np.stack([one, next(circuits)]))[0][0, 1] for one in circuits])


def prompts_for(overlap: Sequence[tuple[int, float]], bar: float) -> float | None:
    """From how many prompts on the overlap is at least `bar`, by (prompts, overlap) of rising numbers of prompts.

    Where it is seen: a line in log n between the last below and the next. Where it is not: what 1 - overlap = a n^-b,
    fitted in logs, says; None of fewer than three numbers, of an overlap that does not rise, and beyond eight times
    what was seen. Circuits differ where scores lie within their error of the last one's, so that b is near 1/2.
    """
    below = [place for place, (_, one) in enumerate(overlap) if one < bar]
    if not overlap or not below:
        return float(overlap[0][0]) if overlap else None
    if below[-1] + 1 < len(overlap):
        (n, low), (after, high) = overlap[below[-1] : below[-1] + 2]
        return float(ceil(n * (after / n) ** ((bar - low) / (high - low)) - 1e-9))
    if len(overlap) < _FEWEST_POINTS:
        return None
    lacks = np.log([max(1 - one, 1e-9) for _, one in overlap])
    slope, level = np.polyfit(np.log([n for n, _ in overlap]), lacks, 1)
    most = log(_FURTHEST * overlap[-1][0])
    if slope >= 0 or (reached := (log(1 - bar) - level) / slope) > most:
        return None
    return float(ceil(exp(max(reached, log(overlap[-1][0])))))


@dataclass(frozen=True)
class Certified:
    """Edges that are in (out of) the circuit whatever up to `radius` prompts are taken from or put into the set."""

    included: Bool[np.ndarray, " edge"]
    excluded: Bool[np.ndarray, " edge"]
    radius: int


def certified(
    graph: Graph,
    scores: AnyRows,
    size: int,
    rule: str,
    p_del: float,
    votes: int,
    alpha: float,
    seed: int,
) -> Certified:
    """Votes over random deletions of prompts, each with probability `p_del` (arXiv 2602.22968).

    An edge is certified where the one-sided Clopper-Pearson bound p of its vote is above one half; a set that differs
    by r prompts then has the same majority for r <= log(3/2 - p) / log(p_del) (randomised deletion). `radius` is the
    smallest of the certified edges.
    """
    rng = np.random.default_rng(seed)
    n = len(scores)
    count = np.zeros(graph.n_edges, dtype=np.int64)
    kept = rng.random((votes, n)) >= p_del
    for one in weighted(
        graph, scores, kept[kept.any(axis=1)].astype(np.int64), rule
    ):  # of none nothing is selected
        count += select(one, size, rule)
    least = _least_sure(votes, alpha)
    included, excluded = count >= least, (votes - count) >= least
    sure = np.concatenate([count[included], votes - count[excluded]])
    bound = min((lower_bound(int(k), votes, alpha) for k in np.unique(sure)), default=0.5)
    radius = floor(log(1.5 - bound) / log(p_del)) if bound > 0.5 else 0
    return Certified(included, excluded, radius)


def lower_bound(right: int, n: int, alpha: float) -> float:
    """The one-sided Clopper-Pearson lower bound of a share seen `right` times in `n`."""
    from scipy.stats import beta

    return float(beta.ppf(alpha, right, n - right + 1)) if right else 0.0


def _least_sure(n: int, alpha: float) -> int:
    """The fewest votes of n whose lower bound is above one half; n + 1 where none has it."""
    low, high = n // 2, n + 1
    while low < high:
        middle = (low + high) // 2
        if middle <= n and lower_bound(middle, n, alpha) <= 0.5:
            low = middle + 1
        else:
            high = middle
    return low


def weighted(
    graph: Graph, scores: AnyRows, weights: Int[np.ndarray, "sample prompt"], rule: str
) -> Iterator[EdgeScores]:
    """The scores of samples in which each prompt is so often; their spread only for a rule that reads it."""
    rows, at_once = PromptRows.of(scores), max(1, _SUM_BYTES // (8 * graph.n_edges))
    for start in range(0, len(weights), at_once):
        some = weights[start : start + at_once]
        totals = some.sum(axis=1)
        counts = some.astype(np.float64)
        means = _sums(counts, rows.blocks())
        means /= totals[:, None]
        std = np.broadcast_to(0.0, means.shape)
        if rule == SPREAD:
            # about a value near to the mean, so that little is lost when the square of the rest is taken away
            near = means[0]
            squares = _sums(counts, (np.square(block - near) for block in rows.blocks())) / totals[:, None]
            std = np.sqrt(np.maximum(squares - np.square(means - near), 0.0))
        for n, mean, spread in zip(totals, means, std, strict=True):
            measured = ~np.isnan(mean)
            moments = Moments(np.where(measured, n, 0), mean, np.where(measured, spread, np.nan))
            yield EdgeScores.from_moments(graph, moments)


def _sums(
    counts: Float[np.ndarray, "sample prompt"], blocks: Iterator[Float[np.ndarray, "block edge"]]
) -> Float[np.ndarray, "sample edge"]:
    """The weighted sums over prompts, block after block."""
    sums, start = None, 0
    for block in blocks:
        part = counts[:, start : start + len(block)] @ block
        sums = part if sums is None else np.add(sums, part, out=sums)
        start += len(block)
    if sums is None:
        raise ValueError("scores of no prompt")
    return sums
