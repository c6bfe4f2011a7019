"""Whether the method finds as stable a circuit where there is nothing to find: in null data, the same prompts with the
answers of others.

Knows scores of single prompts, of the task and of its null data. Scores of prompts alone already overlap (GPT-2's heads
on IOI: .83, and .54 on null data, by StressKit's stability card), so that an overlap says something of the behaviour
only as far as it is above that. A run has null data of a task where another one says the same with `answers: shuffled`.
"""

from typing import ClassVar, Literal

from pydantic import Field

from pipeline.evaluation.base import Curve, Evaluation, Found, Subject, Values, in_words
from pipeline.evaluation.ratio import Ratio
from pipeline.evaluation.resamples import bootstrap, overlap_of

NULL = "null"


class NullData(Evaluation):
    """Mean pairwise Jaccard of circuits of bootstrapped null data, of the chosen circuit's size and rule, with its
    interval; nothing where the run has no null data of the task."""

    of_chosen: ClassVar[bool] = True

    name: Literal["null_data"] = "null_data"
    resamples: int = Field(default=100, ge=2, le=10_000)
    seed: int = Field(default=0, ge=0, lt=2**63)

    def find(self, subject: Subject, values: Values | None, curve: Curve) -> list[Found]:
        """jaccard with jaccard_low and _high; null of methods that decide, and without the scores of every prompt."""
        if subject.rows_of_null is None:
            return []
        size = subject.the_circuit.n_edges
        rows = None if subject.scores.kept is not None or not size else subject.rows_of_null()
        if rows is None or len(rows) < 2:
            return in_words("jaccard", Ratio(None), NULL)
        circuits = bootstrap(subject.scores.graph, rows, size, subject.rank, self.resamples, self.seed)
        found = overlap_of(circuits, self.seed)
        return in_words("jaccard", Ratio(found.mean, found.low, found.high), NULL)
