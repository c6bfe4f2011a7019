"""The mean ensemble: the scores of several methods of a run as one ranking. No model pass.

    score(e) = mean over methods of score_m(e)

The parallel ensemble of Mondorf et al. 2025 (arXiv 2510.06811, BlackboxNLP's shared task on MIB), where the mean beats
weights, minimum and maximum. They average the scores as they are, and bring each receiver's to a sum of 1 only for a
method that needs it, information flow routes; so it is here: methods of one metric and one ablation estimate the same
effect in the same unit, and others are refused. The mean of shards is the shard of means, so that it is computed shard
by shard like its methods, after them; what they keep of every prompt, it has too.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float
from pydantic import Field

from pipeline.core.errors import CircuitsError
from pipeline.core.graph import Graph
from pipeline.core.scores import EdgeScores
from pipeline.methods.base import Cost, EdgeMethod, Names
from pipeline.methods.work import Work


class Ensemble(EdgeMethod):
    """The mean of the scores of several methods of the same run: one ranking from all of them."""

    name: Literal["ensemble"] = "ensemble"
    of: Names = Field(
        min_length=2, max_length=100, description="ids of the methods whose scores are averaged"
    )

    @property
    def id(self) -> str:
        """`as` if given, else those of its methods."""
        return self.as_ or "-".join([self.name, *self.of])[:80]

    @property
    def combines(self) -> tuple[str, ...]:
        return self.of

    def cost(self, graph: Graph, lengths: Sequence[int]) -> Cost:
        """Rows alone."""
        del lengths
        return Cost(rows=graph.n_edges)

    def run(self, work: Work) -> EdgeScores:
        """The mean of what its methods have found on the same prompts."""
        if missing := [id_ for id_ in self.of if id_ not in work.others]:
            raise CircuitsError(
                f"{self.name} reads what methods of the same run have found, and {missing[0]} is not there; in Python: "
                "pipeline.methods.ensemble.mean_of(scores)"
            )
        return mean_of([work.others[id_] for id_ in self.of])


def mean_of(scores: Sequence[EdgeScores]) -> EdgeScores:
    """The mean over methods that have scored the same prompts. NaN, of no prompts, where not all have scored an edge,
    or not on as many prompts. The spread is that of the means of every prompt, and NaN without them.

    CircuitsError for scores of other graphs or positions, and where one has decided which edges to keep.
    """
    first = scores[0]
    if any(one.graph != first.graph or one.span != first.span for one in scores):
        raise CircuitsError("scores of different graphs or positions have no mean")
    if any(one.kept is not None for one in scores):
        raise CircuitsError("what a method has kept is no score: leave it out of the mean")
    counts = np.stack([one.n_prompts for one in scores])
    n = np.where((counts == counts[0]).all(axis=0), counts[0], 0)
    mean = np.mean([one.score for one in scores], axis=0)
    known = (n > 0) & np.isfinite(mean)
    rows = [one.per_prompt for one in scores if one.per_prompt is not None]
    std = np.full(len(n), np.nan)
    per_prompt: Float[np.ndarray, "prompt edge"] | None = None
    if len(rows) == len(scores):
        per_prompt = np.asarray(np.sum(rows, axis=0, dtype=np.float64) / len(rows))
        std[known] = np.nanstd(per_prompt[:, known], axis=0)
    return EdgeScores(
        first.graph,
        np.where(known, mean, np.nan),
        std,
        np.where(known, n, 0),
        per_prompt=per_prompt,
        span=first.span,
    )
