"""Whether the model needs the circuit: what is left of the behaviour when its edges alone are ablated.

Knows values of prompts and masks. The faithfulness of the complement is 0 where nothing is left, and 1 where the model
does as well without the circuit (S3martCirc; field standard since 2025: sufficiency alone tells methods apart poorly).
"""

from typing import ClassVar, Literal

from pipeline.core.circuit import Circuit
from pipeline.core.graph import Graph
from pipeline.evaluation.base import Evaluation, Subject

COMPLEMENT = "complement"


class Necessity(Evaluation):
    """Faithfulness of all edges but the circuit's, with its 95 % interval."""

    of_chosen: ClassVar[bool] = True

    name: Literal["necessity"] = "necessity"

    def n_circuits(self, graph: Graph, *, decides: bool) -> int:
        """One."""
        return 1

    def circuits(self, subject: Subject) -> dict[str, Circuit]:
        """The complement."""
        return {COMPLEMENT: Circuit(subject.scores.graph, ~subject.the_circuit.mask)}
