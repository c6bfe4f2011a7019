"""How many prompts are enough: how alike the circuits of disjoint sets of n prompts are, for n = 4, 8, 16 ...

Knows scores of single prompts, which a run keeps with `store: {prompt_scores: true}`; without them, and of methods that
decide, everything is null. No model pass. Two sets have no prompt in common, so that the overlap is what other prompts
would give; resamples of all prompts (`stability`) share most of theirs.
"""

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from pipeline.evaluation.base import CIRCUIT, Curve, Evaluation, Found, Subject, Values, in_words
from pipeline.evaluation.ratio import Ratio
from pipeline.evaluation.resamples import halves, prompts_for

PREFIX = "prompts-"  # of the label of a number of prompts
FEWEST = 4


class LearningCurve(Evaluation):
    """Mean Jaccard overlap of circuits of n prompts each, where 95 % of the pairs lie, what random sets of their size
    have, and from how many prompts on the overlap is at least `bar`."""

    of_chosen: ClassVar[bool] = True

    name: Literal["learning_curve"] = "learning_curve"
    draws: int = Field(
        default=40, ge=1, le=10_000, description="how many pairs of sets for each number of prompts"
    )
    bar: float = Field(default=0.8, gt=0, lt=1, description="the overlap that is asked for")
    seed: int = Field(default=0, ge=0, lt=2**63)

    def find(self, subject: Subject, values: Values | None, curve: Curve) -> list[Found]:
        """jaccard with its ends for every number of prompts; null; enough, a number of prompts; bar."""
        rows = None if subject.scores.kept is not None else subject.rows_of_prompts()
        circuit = subject.the_circuit
        numbers = sizes(0 if rows is None or not circuit.n_edges else len(rows))
        if rows is None or not numbers:
            return [Found(name, None, CIRCUIT) for name in ("null", "enough")] + [
                Found("bar", self.bar, CIRCUIT)
            ]
        graph, size = subject.scores.graph, circuit.n_edges
        found: list[Found] = []
        means: list[tuple[int, float]] = []
        for n in numbers:
            drawn = halves(graph, rows, n, size, subject.rank, self.draws, self.seed)
            means.append((n, float(drawn.mean())))
            low, high = np.quantile(drawn, [0.025, 0.975])
            found += in_words("jaccard", Ratio(means[-1][1], float(low), float(high)), f"{PREFIX}{n}")
        return [
            *found,
            Found("null", size / (2 * graph.n_edges - size), CIRCUIT),
            Found("enough", prompts_for(means, self.bar), CIRCUIT),
            Found("bar", self.bar, CIRCUIT),
        ]


def sizes(n_prompts: int) -> list[int]:
    """4, 8, 16 ... of which two sets fit; the last is half of the prompts."""
    found = []
    n = FEWEST
    while 2 * n <= n_prompts:
        found.append(n)
        n *= 2
    if found and found[-1] < n_prompts // 2:
        found.append(n_prompts // 2)
    return found
