"""How alike two circuits are, of two methods, tasks, ablations or models of one shape: scores and sets, beside chance.

Knows merged scores of runs. Runs no model: whether a circuit of one task is faithful on another is for prompts to say
(`held_out_of`).
"""

from collections.abc import Iterator, Sequence
from itertools import combinations, product
from typing import Any

import numpy as np
from jaxtyping import Bool

from pipeline.core.errors import CircuitsError
from pipeline.core.results import EDGE_SCORES
from pipeline.core.scores import EdgeScores
from pipeline.core.selection import select
from pipeline.store.run.opened import Run

FRACTIONS = (0.001, 0.01, 0.05, 0.1)


def compared(
    one: Run,
    other: Run | None = None,
    *,
    task: str | None = None,
    method: str | None = None,
    fractions: Sequence[float] = FRACTIONS,
) -> list[dict[str, Any]]:
    """A row per pair of (task, method): of both runs, or of one run with itself.

    `spearman` is the rank correlation of scores that both have, `spearman_size` that of their sizes (None below three
    edges or without spread); `overlaps` has a row per rule of the first run, its `rank`, and size, `kept` one of what
    both have decided, else None: n_edges, other_edges, common, jaccard, `null`, the Jaccard of random sets of these
    sizes, and `p`, how likely such sets have as much in common. CircuitsError for graphs of different shapes.
    """
    if other is not None and one.graph != other.graph:
        raise CircuitsError(
            f"{one.path} is of {one.graph.describe()}, {other.path} of {other.graph.describe()}: their edges are not "
            "the same, so their circuits cannot be compared"
        )
    mine = list(_scored(one, task, method))
    pairs = combinations(mine, 2) if other is None else product(mine, _scored(other, task, method))
    return [
        {
            **dict(zip(("task", "method"), first, strict=True)),
            **dict(zip(("other_task", "other_method"), second, strict=True)),
            **alike(
                one.edge_scores(first[1], first[0]),
                (other or one).edge_scores(second[1], second[0]),
                fractions,
                one.ranks,
            ),
        }
        for first, second in pairs
    ]


def alike(
    one: EdgeScores, other: EdgeScores, fractions: Sequence[float], ranks: Sequence[str] = ("absolute",)
) -> dict[str, Any]:
    """Scores of one graph beside each other; see `compared`."""
    both = ~np.isnan(one.score) & ~np.isnan(other.score)
    sizes = [n for n in dict.fromkeys(int(share * one.graph.n_edges) for share in fractions) if n]
    return {
        "n_measured": int(both.sum()),
        "spearman": _spearman(one.score[both], other.score[both]),
        "spearman_size": _spearman(np.abs(one.score[both]), np.abs(other.score[both])),
        "overlaps": [
            {"rank": rank, **shared(select(one, n, rank), select(other, n, rank))}
            for rank in ranks
            for n in sizes
        ],
        "kept": None if one.kept is None or other.kept is None else shared(one.kept, other.kept),
    }


def shared(one: Bool[np.ndarray, " edge"], other: Bool[np.ndarray, " edge"]) -> dict[str, Any]:
    """What two sets of edges have in common, and what random sets of their sizes have."""
    from scipy.stats import hypergeom

    n, k, m = len(one), int(one.sum()), int(other.sum())
    common = int((one & other).sum())
    expected = k * m / n
    return {
        "n_edges": k,
        "other_edges": m,
        "common": common,
        "jaccard": common / (k + m - common) if k + m else 1.0,
        "null": expected / (k + m - expected) if k + m else 1.0,
        "p": float(hypergeom.sf(common - 1, n, k, m)),
    }


def _scored(run: Run, task: str | None, method: str | None) -> Iterator[tuple[str, str]]:
    """The (task, method) that have merged scores of edges at all positions."""
    for name in run.tasks if task is None else (task,):
        for id_ in run.methods if method is None else (method,):
            if run.type_of(id_) == EDGE_SCORES and run.merged_path(id_, name).exists():
                yield name, id_


def _spearman(one: np.ndarray, other: np.ndarray) -> float | None:
    from scipy.stats import rankdata

    if len(one) < 3:
        return None
    ranks = np.stack([rankdata(one), rankdata(other)])
    if (ranks.std(axis=1) == 0).any():
        return None
    return float(np.corrcoef(ranks)[0, 1])
