"""Whether the circuit is all that does the work: does it lose as much as the model when both lose the same nodes?

    incompleteness(K) = |mean(m(C without K)) - mean(m(M without K))| / |mean(m(full) - m(empty))|

Knows values of prompts and masks. K are nodes of the circuit, each with probability 1/2, as in the IOI paper (Wang et
al. 2022, arXiv 2211.00593): the largest of a few random sets is a lower bound, and a search finds worse ones
(`worst_set`). What takes over when the nodes are gone, and is not in the circuit, makes the model better than the
circuit.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from pydantic import Field

from pipeline.core.circuit import Circuit
from pipeline.core.graph import Graph
from pipeline.evaluation.base import CIRCUIT, Curve, Evaluation, Found, Subject, Values
from pipeline.evaluation.ratio import NO_DENOMINATOR

OF_CIRCUIT, OF_MODEL = "circuit-without", "model-without"

Sets = Mapping[str, Bool[np.ndarray, " edge"]]


class Incompleteness(Evaluation):
    """How far circuit and model are apart, in shares of the behaviour, without nothing and without certain sets.
    Subclasses define `sets` and `n_circuits`."""

    of_chosen: ClassVar[bool] = True

    def sets(self, subject: Subject) -> Sets:
        """The edges of each set, by its name."""
        raise NotImplementedError

    def circuits(self, subject: Subject) -> dict[str, Circuit]:
        """The circuit; it and the whole model without each set."""
        circuit = subject.the_circuit
        found = {CIRCUIT: circuit}
        for name, gone in self.sets(subject).items():
            found |= without(circuit, gone, f"-{name}")
        return found

    def find(self, subject: Subject, values: Values | None, curve: Curve) -> list[Found]:
        """whole; median, largest of the sets; incompleteness of each."""
        assert values is not None
        ran = values.circuits
        gaps = {
            one: apart(values, ran[f"{OF_CIRCUIT}-{one}"], ran[f"{OF_MODEL}-{one}"])
            for one in self.sets(subject)
        }
        known = [gap for gap in gaps.values() if gap is not None]
        return [
            Found("whole", apart(values, ran[CIRCUIT], values.full), CIRCUIT),
            Found("median", float(np.median(known)) if known else None, CIRCUIT),
            Found("largest", max(known, default=None), CIRCUIT),
            *(Found("incompleteness", gap, f"without-{one}") for one, gap in gaps.items()),
        ]


class Completeness(Incompleteness):
    """How far circuit and model are apart, in shares of the behaviour, without nothing (`whole`) and without random
    sets of the circuit's nodes: median, largest."""

    name: Literal["completeness"] = "completeness"
    draws: int = Field(default=10, ge=1, le=10_000, description="how many sets of nodes; the paper takes 100")
    seed: int = Field(default=0, ge=0, lt=2**63)

    def n_circuits(self, graph: Graph, *, decides: bool) -> int:
        """The circuit, and circuit and model without each set."""
        return 1 + 2 * self.draws

    def sets(self, subject: Subject) -> Sets:
        """The edges out of the nodes of each set, by its number."""
        circuit = subject.the_circuit
        drawn = (sampled(circuit, self.seed, index) for index in range(self.draws))
        return {str(index): out_of(circuit.graph, nodes) for index, nodes in enumerate(drawn)}


def sampled(circuit: Circuit, seed: int, index: int) -> Bool[np.ndarray, " sender"]:
    """A set of the circuit's senders but for the input, each with probability 1/2, and never none where there are
    some; the first sets are the same however many are drawn."""
    graph, rng = circuit.graph, np.random.default_rng([seed, index])
    nodes = nodes_of(circuit)
    chosen = np.zeros(graph.n_senders, dtype=bool)
    chosen[nodes] = rng.random(len(nodes)) < 0.5
    if len(nodes) and not chosen.any():
        chosen[rng.choice(nodes)] = True
    return chosen


def nodes_of(circuit: Circuit) -> Int[np.ndarray, " node"]:
    """The circuit's senders but for the input; without those that dangle."""
    nodes = np.unique(circuit.graph.edge_senders[circuit.pruned.mask])
    return np.asarray(nodes[nodes > 0], dtype=np.int64)


def apart(
    values: Values, one: Float[np.ndarray, " prompt"], other: Float[np.ndarray, " prompt"]
) -> float | None:
    """How far two circuits are apart in shares of the behaviour; None where there is none."""
    scale = abs(float((values.full - values.empty).mean()))
    return abs(float(one.mean()) - float(other.mean())) / scale if scale >= NO_DENOMINATOR else None


def out_of(graph: Graph, senders: Bool[np.ndarray, " sender"]) -> Bool[np.ndarray, " edge"]:
    """The edges out of these senders."""
    return np.asarray(senders[graph.edge_senders], dtype=np.bool_)


def without(circuit: Circuit, gone: Bool[np.ndarray, " edge"], ending: str) -> dict[str, Circuit]:
    """Circuit and model without these edges, by labels that end so."""
    graph = circuit.graph
    return {
        f"{OF_CIRCUIT}{ending}": Circuit(graph, circuit.mask & ~gone),
        f"{OF_MODEL}{ending}": Circuit(graph, ~gone),
    }
