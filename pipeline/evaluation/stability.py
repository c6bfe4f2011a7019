"""Whether other prompts of the same task give the same circuit.

Knows scores of single prompts, which a run keeps with `store: {prompt_scores: true}`; without them, and of methods that
have none, everything is null. What a method that decides would keep of other prompts is not known from scores: it is
what it has kept of them, where it was asked to search them (acdc: `resamples`), and null otherwise.
"""

from typing import ClassVar, Literal

import numpy as np
from jaxtyping import Bool
from pydantic import Field

from pipeline.evaluation.base import CIRCUIT, Curve, Evaluation, Found, Subject, Values
from pipeline.evaluation.resamples import bootstrap, certified, overlap_of

_NAMES = ("jaccard", "jaccard_low", "jaccard_high", "null", "always", "ever")


class Stability(Evaluation):
    """Mean pairwise Jaccard of circuits of bootstrapped prompts beside that of random sets of their size; how many
    edges are in all of them and in any; and how many are certified under deletion of prompts."""

    of_chosen: ClassVar[bool] = True

    name: Literal["stability"] = "stability"
    resamples: int = Field(default=100, ge=2, le=10_000)
    votes: int = Field(default=1000, ge=0, le=100_000, description="for certified edges; 0 leaves them out")
    p_del: tuple[float, ...] = Field(default=(0.6, 0.9), description="how likely a vote leaves out a prompt")
    alpha: float = Field(default=0.001, gt=0, lt=0.5)
    seed: int = Field(default=0, ge=0, lt=2**63)

    def find(self, subject: Subject, values: Values | None, curve: Curve) -> list[Found]:
        """jaccard with its ends and null; always and ever, numbers of edges; certified and radius for every p_del."""
        circuit = subject.the_circuit
        if subject.scores.kept is not None:
            return self._overlap(subject.kept_of_resamples())
        rows = subject.rows_of_prompts()
        if rows is None or len(rows) < 2 or not circuit.n_edges:
            return self._overlap(None)
        graph, size = subject.scores.graph, circuit.n_edges
        found = self._overlap(bootstrap(graph, rows, size, subject.rank, self.resamples, self.seed))
        for p_del in self.p_del if self.votes else ():
            sure = certified(graph, rows, size, subject.rank, p_del, self.votes, self.alpha, self.seed)
            inside = float(np.logical_and(sure.included, circuit.mask).sum())
            found.append(Found("certified", inside, f"deletion-{p_del:g}"))
            found.append(Found("radius", float(sure.radius), f"deletion-{p_del:g}"))
        return found

    def _overlap(self, circuits: Bool[np.ndarray, "resample edge"] | None) -> list[Found]:
        """How alike circuits of resamples are; nulls of fewer than two that hold an edge."""
        if circuits is None or len(circuits) < 2 or not circuits.any():
            return [Found(name, None, CIRCUIT) for name in _NAMES]
        overlap, share = overlap_of(circuits, self.seed), circuits.mean(axis=0)
        known = (overlap.mean, overlap.low, overlap.high, overlap.null)
        numbers = (*known, float((share == 1).sum()), float((share > 0).sum()))
        return [Found(name, value, CIRCUIT) for name, value in zip(_NAMES, numbers, strict=True)]
