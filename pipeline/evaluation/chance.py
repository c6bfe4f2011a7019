"""Whether the circuit is better than chance: the faithfulness of random circuits of its size.

Knows values of prompts and masks. A random circuit has as many edges of each kind (input, head or MLP into q, k, v, MLP
or logits) as the circuit, drawn by a seed (arXiv 2410.13032 compares with 100).
"""

from typing import ClassVar, Literal

import numpy as np
from jaxtyping import Int
from pydantic import Field

from pipeline.core.circuit import Circuit
from pipeline.core.graph import Graph
from pipeline.evaluation.base import CIRCUIT, Curve, Evaluation, Found, Subject, Values, in_words
from pipeline.evaluation.ratio import faithfulness_over


class Chance(Evaluation):
    """The circuit against random ones of equal size and kinds: the 95th percentile of their faithfulness, and the share
    of them that the circuit is nearer to 1 than."""

    of_chosen: ClassVar[bool] = True

    name: Literal["chance"] = "chance"
    draws: int = Field(default=100, ge=1, le=10_000, description="how many random circuits")
    seed: int = Field(default=0, ge=0, lt=2**63)

    def n_circuits(self, graph: Graph, *, decides: bool) -> int:
        """The circuit and the random ones."""
        return 1 + self.draws

    def circuits(self, subject: Subject) -> dict[str, Circuit]:
        """The circuit, and random ones by number."""
        drawn = random_circuits(subject.the_circuit, self.draws, self.seed)
        return {CIRCUIT: subject.the_circuit} | {f"random-{index}": one for index, one in enumerate(drawn)}

    def find(self, subject: Subject, values: Values | None, curve: Curve) -> list[Found]:
        """Of the circuit its faithfulness with its ends; of the random ones median, p95 and largest; nearer, the share
        of random circuits that are further from 1."""
        assert values is not None
        of_circuit = faithfulness_over(values.full, values.empty, values.circuits[CIRCUIT])
        drawn = [
            faithfulness_over(values.full, values.empty, by_prompt).value
            for label, by_prompt in values.circuits.items()
            if label != CIRCUIT
        ]
        found = in_words("faithfulness", of_circuit, CIRCUIT)
        known = [one for one in drawn if one is not None]
        if of_circuit.value is None or not known:
            return [*found, *(Found(name, None, "random") for name in ("median", "p95", "largest", "nearer"))]
        away = abs(1 - of_circuit.value)
        nearer = float(np.mean([abs(1 - one) > away for one in known]))
        return [
            *found,
            Found("median", float(np.median(known)), "random"),
            Found("p95", float(np.quantile(known, 0.95, method="higher")), "random"),
            Found("largest", max(known), "random"),
            Found("nearer", nearer, "random"),
        ]


def random_circuits(circuit: Circuit, draws: int, seed: int) -> list[Circuit]:
    """Circuits with as many edges of each kind; the first ones are the same however many are drawn."""
    kinds = edge_kinds(circuit.graph)
    of_kind = {int(kind): np.flatnonzero(kinds == kind) for kind in np.unique(kinds[circuit.mask])}
    counts = {kind: int((kinds[circuit.mask] == kind).sum()) for kind in of_kind}
    found = []
    for index in range(draws):
        rng = np.random.default_rng([seed, index])
        mask = np.zeros(circuit.graph.n_edges, dtype=bool)
        for kind, ids in of_kind.items():
            mask[rng.choice(ids, counts[kind], replace=False)] = True
        found.append(Circuit(circuit.graph, mask))
    return found


def edge_kinds(graph: Graph) -> Int[np.ndarray, " edge"]:
    """A number for the kind of each edge: what kind its sender is, and what kind and port its receiver."""
    senders = {kind: place for place, kind in enumerate(("input", "head", "mlp"))}
    ends = {end: place for place, end in enumerate(("q", "k", "v", "mlp", "logits"))}
    of_sender = np.asarray([senders[node.kind] for node in graph.senders])
    of_receiver = np.asarray([ends[node.port or node.kind] for node in graph.receivers])
    kinds = of_sender[graph.edge_senders] * len(ends) + of_receiver[graph.edge_receivers]
    return np.asarray(kinds, dtype=np.int64)
