"""Whether a circuit of one task does another: the chosen circuit of every task, by the prompts of each.

Knows values of prompts. Two circuits may share few edges and each do both tasks (arXiv 2605.12671, 2606.06267), so that
overlap says little and this says more.
"""

from typing import ClassVar, Literal

from pipeline.core.circuit import Circuit
from pipeline.core.graph import Graph
from pipeline.evaluation.base import Evaluation, Subject


class Across(Evaluation):
    """Faithfulness, with its 95 % interval, of the chosen circuit of every task on the prompts of each: a matrix per
    method."""

    of_chosen: ClassVar[bool] = True
    of_others: ClassVar[bool] = True

    name: Literal["across"] = "across"

    def n_circuits(self, graph: Graph, *, decides: bool) -> int:
        """One of each task."""
        return 1

    def circuits(self, subject: Subject) -> dict[str, Circuit]:
        """The circuits by the tasks that they are of."""
        return dict(subject.others)
