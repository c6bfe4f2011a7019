"""Whether the circuit alone does what the model does: its faithfulness on prompts that did not choose it.

Knows values of prompts. Where a task holds prompts out, these are the ones; else those that the scores come from, and
the number is that of a circuit judged on its own evidence.
"""

from typing import ClassVar, Literal

from pipeline.core.circuit import Circuit
from pipeline.core.graph import Graph
from pipeline.evaluation.base import CIRCUIT, Curve, Evaluation, Found, Subject, Values, faithful, in_words

TWICE = "twice"


class Sufficiency(Evaluation):
    """Faithfulness of the chosen circuit with its 95 % interval, and that of twice as many edges: a curve that only
    crosses 1 on its way is no circuit."""

    of_chosen: ClassVar[bool] = True

    name: Literal["sufficiency"] = "sufficiency"

    def n_circuits(self, graph: Graph, *, decides: bool) -> int:
        """Two at most: a method that decides has no circuit of twice its size."""
        return 1 if decides else 2

    def circuits(self, subject: Subject) -> dict[str, Circuit]:
        """The chosen circuit, and the one of twice its size by the same rule."""
        chosen = subject.the_circuit
        found = {CIRCUIT: chosen}
        if subject.scores.kept is None:
            size = min(2 * chosen.n_edges, subject.scores.graph.n_edges)
            found[TWICE] = Circuit.from_scores(subject.scores, top=size, rank=subject.rank)
        return found

    def find(self, subject: Subject, values: Values | None, curve: Curve) -> list[Found]:
        """n_edges; faithfulness with faithfulness_low and _high; discovery, the one that it was chosen by, likewise."""
        assert values is not None
        assert subject.chosen is not None
        return [
            Found("n_edges", float(subject.the_circuit.n_edges), CIRCUIT),
            *in_words("discovery", subject.chosen.discovery, CIRCUIT),
            *faithful(values),
        ]
