"""Whether every edge of the circuit is there for something: what each removal costs.

    cost(e) = mean(m(C) - m(C without e)) / mean(m(full) - m(empty))

Knows values of prompts and masks. A removal costs something when its mean over prompts is more than its standard error,
and more than rounding: where all prompts say the same, the error is none. A circuit of more edges than are tried is
judged by a sample of them, drawn by a seed: only then the share has an interval.
"""

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from pipeline.core.circuit import Circuit
from pipeline.core.graph import Graph
from pipeline.core.intervals import wilson_95
from pipeline.evaluation.base import CIRCUIT, Curve, Evaluation, Found, Subject, Values, in_words
from pipeline.evaluation.ratio import NO_DENOMINATOR, ROUNDING, Ratio


class Minimality(Evaluation):
    """The share of the circuit's edges whose removal costs more than its standard error, with Wilson's interval where
    they are a sample."""

    of_chosen: ClassVar[bool] = True

    name: Literal["minimality"] = "minimality"
    edges: int = Field(default=100, ge=1, le=100_000, description="how many edges are tried at most")
    seed: int = Field(default=0, ge=0, lt=2**63)

    def n_circuits(self, graph: Graph, *, decides: bool) -> int:
        """The circuit, and one for each edge that is tried."""
        return 1 + min(self.edges, graph.n_edges)

    def circuits(self, subject: Subject) -> dict[str, Circuit]:
        """The circuit, and without each of the edges that are tried, by their names."""
        circuit = subject.the_circuit
        ids = np.flatnonzero(circuit.mask)
        if len(ids) > self.edges:
            ids = np.sort(np.random.default_rng(self.seed).choice(ids, self.edges, replace=False))
        found = {CIRCUIT: circuit}
        for edge in ids:
            mask = circuit.mask.copy()
            mask[edge] = False
            found[circuit.graph.edge_name(int(edge))] = Circuit(circuit.graph, mask)
        return found

    def find(self, subject: Subject, values: Values | None, curve: Curve) -> list[Found]:
        """tried; costly, the share, with costly_low and _high; of each edge its cost in faithfulness."""
        assert values is not None
        whole = values.circuits[CIRCUIT]
        scale = float((values.full - values.empty).mean())
        found: list[Found] = []
        costly = 0
        edges = {label: by_prompt for label, by_prompt in values.circuits.items() if label != CIRCUIT}
        for label, by_prompt in edges.items():
            lost = (whole - by_prompt) * np.sign(scale)  # a divergence grows as the behaviour goes
            error = lost.std(ddof=1) / np.sqrt(len(lost)) if len(lost) > 1 else np.inf
            costly += bool(lost.mean() > max(error, ROUNDING * abs(scale)))
            cost = float(lost.mean()) / abs(scale) if abs(scale) >= NO_DENOMINATOR else None
            found.append(Found("cost", cost, label))
        known = bool(edges) and len(whole) > 1
        share = costly / len(edges) if known else None
        low, high = share, share  # of all edges it is no estimate
        if known and len(edges) < subject.the_circuit.n_edges:
            low, high = wilson_95(costly, len(edges))
        return [
            Found("tried", float(len(edges)), CIRCUIT),
            *in_words("costly", Ratio(share, low, high), CIRCUIT),
            *found,
        ]
