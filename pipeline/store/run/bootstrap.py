"""How far a score would move with other prompts: a Poisson bootstrap over prompts (Chamandy et al. 2012).

Knows weights and percentiles. Does not know files: shards of every prompt's scores come in.

In each sample a prompt counts w times, w from a Poisson distribution of mean 1, and a score is the weighted mean
over prompts. Unlike draws of exactly n prompts these weights need no n: they are read off a counter-based
generator (Philox) at (seed, task, prompt), so that shards, retries and any cut into shards agree on them, and
methods of one task are compared on the same samples.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from math import exp, factorial

import numpy as np
from jaxtyping import Float, Int

MOST_EDGES = 200_000  # more are refused: a sum per sample and edge is held, and read for every edge

# Fewer prompts have no interval: from 5, one from the lowest to the highest score, and none of the bootstrap is wider,
# holds the median of a score in 94 % of all draws (1 - 2 / 2^5).
FEWEST = 6

_CHUNK_BYTES = 1 << 27  # of sums at a time; the peak is about five times that, whatever is asked for
_UP_TO = np.cumsum([exp(-1) / factorial(k) for k in range(20)])  # probability of k or less; 20 has 4e-19

# Prompt ids and [prompt, edge], shard by shard.
Shards = Callable[[], Iterator[tuple[np.ndarray, np.ndarray]]]


@dataclass(frozen=True)
class Bootstrap:
    """What is asked for: how many samples, and of how many of the strongest edges (None: all)."""

    samples: int
    top: int | None = None


def weights(
    seed: int, task: str, prompt_ids: Int[np.ndarray, " prompt"], samples: int
) -> Int[np.ndarray, "sample prompt"]:
    """How often each prompt counts in each sample. The first rows do not depend on `samples`."""
    key = int.from_bytes(sha256(f"bootstrap {seed} {task}".encode()).digest()[:16], "little")
    columns = []
    for prompt_id in prompt_ids.tolist():
        stream = np.random.Philox(key=key, counter=prompt_id << 64)  # 2^64 draws apart
        uniform = (stream.random_raw(samples) >> np.uint64(11)) * 2.0**-53
        columns.append(np.searchsorted(_UP_TO, uniform, side="right"))
    return np.stack(columns, axis=1)


def intervals(
    shards: Shards, edges: Int[np.ndarray, " chosen"], *, seed: int, task: str, samples: int
) -> tuple[Float[np.ndarray, " chosen"], Float[np.ndarray, " chosen"]]:
    """The 2.5 % and 97.5 % quantiles over samples, for the chosen edges.

    NaN where fewer than `FEWEST` prompts were measured. The shards are gone through once for every `_CHUNK_BYTES` of
    sums, in float64. A sample that leaves out all prompts, which only a handful of them allows, does not count.
    """
    low, high = np.full(len(edges), np.nan), np.full(len(edges), np.nan)
    width = max(1, _CHUNK_BYTES // (8 * samples))
    for start in range(0, len(edges), width):
        chunk = slice(start, start + width)
        means = _means(shards, edges[chunk], seed=seed, task=task, samples=samples)
        if np.isnan(means).any():
            low[chunk], high[chunk] = _nanquantiles(means)
        else:
            low[chunk], high[chunk] = np.quantile(means, (0.025, 0.975), axis=0, overwrite_input=True)
    return low, high


def _means(
    shards: Shards, edges: Int[np.ndarray, " chosen"], *, seed: int, task: str, samples: int
) -> Float[np.ndarray, "sample chosen"]:
    """The weighted means of every sample; NaN where no prompt counts, or fewer than `FEWEST` were measured."""
    totals = np.zeros((samples, len(edges)))
    counts = np.zeros((samples, 1))  # one column while every prompt has measured every edge
    measured = np.zeros(len(edges), dtype=np.int64)
    for prompt_ids, scores in shards():
        drawn = weights(seed, task, prompt_ids, samples).astype(np.float64)
        values = scores[:, edges].astype(np.float64)
        there = ~np.isnan(values)
        if there.all():
            totals += drawn @ values
            counts = counts + drawn.sum(axis=1, keepdims=True)
        else:
            totals += drawn @ np.where(there, values, 0.0)
            counts = counts + drawn @ there
        measured += there.sum(axis=0)
    counts = np.where(measured < FEWEST, 0.0, counts)
    return np.divide(totals, counts, out=np.full(totals.shape, np.nan), where=counts > 0)


def _nanquantiles(
    means: Float[np.ndarray, "sample chosen"],
) -> Float[np.ndarray, "2 chosen"]:
    """Quantiles over what is there, column by column; NaN where nothing is."""
    quantiles = np.full((2, means.shape[1]), np.nan)
    some = ~np.isnan(means).all(axis=0)
    if some.any():
        quantiles[:, some] = np.nanquantile(means[:, some], (0.025, 0.975), axis=0)
    return quantiles
