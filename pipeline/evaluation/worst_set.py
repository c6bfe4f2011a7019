"""How incomplete the circuit is at worst: a greedy search for the set of nodes without which circuit and model are most
apart.

    incompleteness(K) = |mean(m(C without K)) - mean(m(M without K))| / |mean(m(full) - m(empty))|

The search of the IOI paper (Wang et al. 2022, arXiv 2211.00593, section 4): from the empty set, a sample of the nodes
that are left is tried one by one, and the one that makes the gap largest is added where that is larger than before;
several searches from other samples, 10 of at most 10 steps with 10 nodes there. Every step depends on what those before
it have shown over all prompts, and is a round of circuits. A set that several searches try is run once.

Knows values of prompts and masks. A greedy search finds a lower bound too: `largest` is no more than the worst set's.
"""

from collections.abc import Callable
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from pipeline.core.circuit import Circuit
from pipeline.core.graph import Graph
from pipeline.evaluation.base import CIRCUIT, Curve, Evaluation, Found, Subject, Values
from pipeline.evaluation.completeness import OF_CIRCUIT, OF_MODEL, apart, nodes_of, out_of, without
from pipeline.evaluation.ratio import ROUNDING

Set = frozenset[int]  # of senders
Gap = Callable[[Set], float | None]  # None: not run yet


class WorstSet(Evaluation):
    """Incompleteness of the worst set of the circuit's nodes that greedy searches find (IOI paper), and which nodes
    these are."""

    of_chosen: ClassVar[bool] = True

    name: Literal["worst_set"] = "worst_set"
    searches: int = Field(default=3, ge=1, le=1000, description="the paper has 10")
    steps: int = Field(
        default=5, ge=1, le=1000, description="nodes that a search may add at most; the paper has 10"
    )
    sample: int = Field(
        default=5, ge=1, le=10_000, description="nodes that are tried at each step; the paper has 10"
    )
    seed: int = Field(default=0, ge=0, lt=2**63)

    @property
    def rounds(self) -> int:
        return self.steps

    def n_circuits(self, graph: Graph, *, decides: bool) -> int:
        """The circuit, and circuit and model without each set that is tried."""
        return 1 + 2 * self.searches * self.steps * self.sample

    def circuits(self, subject: Subject) -> dict[str, Circuit]:
        """The circuit; it and the model without each set of the first step."""
        circuit = subject.the_circuit
        return {CIRCUIT: circuit} | _without(circuit, self._searched(circuit, lambda _: None)[1])

    def further(self, subject: Subject, values: Values) -> dict[str, Circuit]:
        """The same of the next step of all searches."""
        circuit = subject.the_circuit
        return _without(circuit, self._searched(circuit, _gaps(circuit.graph, values))[1])

    def find(self, subject: Subject, values: Values | None, curve: Curve) -> list[Found]:
        """largest, of which `nodes` nodes; by how many sets were tried; and the gap of the set that each search ends
        with, whose label names its nodes."""
        assert values is not None
        circuit = subject.the_circuit
        gap = _gaps(circuit.graph, values)
        ends = dict.fromkeys(self._searched(circuit, gap)[0])
        is_known = apart(values, values.circuits[CIRCUIT], values.full) is not None
        gaps = {one: gap(one) if is_known else None for one in ends}
        worst = max(ends, key=lambda one: gaps[one] or 0.0)
        tried = sum(label.startswith(f"{OF_MODEL}:") for label in values.circuits)
        return [
            Found("largest", gaps[worst], CIRCUIT),
            Found("nodes", float(len(worst)) if is_known else None, CIRCUIT),
            Found("tried", float(tried), CIRCUIT),
            *(Found("incompleteness", one, _label("without", circuit.graph, of)) for of, one in gaps.items()),
        ]

    def _searched(self, circuit: Circuit, gap: Gap) -> tuple[list[Set], list[Set]]:
        """Where every search stands by the gaps that are known, and the sets whose gaps are to be known next."""
        stand, wanted = [], list[Set]()
        for search in range(self.searches):
            chosen: Set = frozenset()
            for step in range(self.steps):
                tried = self._tried(circuit, chosen, search, step)
                if unknown := [one for one in tried if gap(one) is None]:
                    wanted += unknown
                    break
                best = max(tried, key=lambda one: gap(one) or 0.0, default=chosen)
                if (gap(best) or 0.0) > (gap(chosen) or 0.0) + ROUNDING:
                    chosen = best
            stand.append(chosen)
        return stand, [*dict.fromkeys(wanted)]

    def _tried(self, circuit: Circuit, chosen: Set, search: int, step: int) -> list[Set]:
        """The sets with one node more that a step tries."""
        left = np.asarray([node for node in nodes_of(circuit).tolist() if node not in chosen], dtype=np.int64)
        rng = np.random.default_rng([self.seed, search, step])
        drawn = rng.choice(left, min(self.sample, len(left)), replace=False)
        return [chosen | {node} for node in sorted(drawn.tolist())]


def _gaps(graph: Graph, values: Values) -> Gap:
    """How far circuit and model are apart without a set, of those that were run; 0 where there is no behaviour."""

    def gap(one: Set) -> float | None:
        ran = values.circuits
        if not one:
            return apart(values, ran[CIRCUIT], values.full) or 0.0
        mine, whole = (ran.get(_label(what, graph, one)) for what in (OF_CIRCUIT, OF_MODEL))
        return None if mine is None or whole is None else (apart(values, mine, whole) or 0.0)

    return gap


def _without(circuit: Circuit, sets: list[Set]) -> dict[str, Circuit]:
    """Circuit and model without each of these sets, by labels that name them."""
    graph, found = circuit.graph, dict[str, Circuit]()
    for one in sets:
        gone = np.zeros(graph.n_senders, dtype=bool)
        gone[sorted(one)] = True
        found |= without(circuit, out_of(graph, gone), _label("", graph, one))
    return found


def _label(what: str, graph: Graph, nodes: Set) -> str:
    """What is without these nodes, by name."""
    return f"{what}:{'+'.join(graph.senders[node].name for node in sorted(nodes))}"
