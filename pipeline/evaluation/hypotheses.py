"""The hypothesis tests of Shi et al. 2024 (arXiv 2410.13032) on the chosen circuit. IOI's published circuit fails the
first two of them.

Knows values of prompts and masks. Does not know how a p-value comes about (`significance`).
"""

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from pipeline.core.circuit import Circuit
from pipeline.core.graph import Graph
from pipeline.evaluation.base import CIRCUIT, Curve, Evaluation, Found, Subject, Values
from pipeline.evaluation.chance import random_circuits
from pipeline.evaluation.significance import equivalence, exceeds, independence

REST = "complement"
_RANDOM, _WITHOUT = "random", "without-random"


class Hypotheses(Evaluation):
    """P-values: does the circuit do what the model does (equivalence), is anything left without it (independence), does
    it do more than random circuits (sufficiency), and does its absence cost more than theirs (partial necessity)?"""

    of_chosen: ClassVar[bool] = True

    name: Literal["hypotheses"] = "hypotheses"
    draws: int = Field(
        default=19, ge=1, le=10_000, description="how many random circuits; the least p is 1/(1+draws)"
    )
    margin: float = Field(default=0.1, ge=0, lt=0.5)
    permutations: int = Field(default=999, ge=1, le=100_000)
    seed: int = Field(default=0, ge=0, lt=2**63)

    def n_circuits(self, graph: Graph, *, decides: bool) -> int:
        """The circuit and the random ones, each alone and taken away."""
        return 2 * (1 + self.draws)

    def circuits(self, subject: Subject) -> dict[str, Circuit]:
        """The circuit, random ones of its size and kinds, and the complement of each."""
        circuit = subject.the_circuit
        found = {CIRCUIT: circuit, REST: Circuit(circuit.graph, ~circuit.mask)}
        for index, one in enumerate(random_circuits(circuit, self.draws, self.seed)):
            found[f"{_RANDOM}-{index}"] = one
            found[f"{_WITHOUT}-{index}"] = Circuit(one.graph, ~one.mask)
        return found

    def find(self, subject: Subject, values: Values | None, curve: Curve) -> list[Found]:
        """equivalence, independence, sufficiency and necessity, each a p-value. For the first two a small one speaks
        against the circuit, for the others for it."""
        assert values is not None
        ran = values.circuits
        # a divergence is lower where there is more
        sign = np.sign((values.full - values.empty).mean()) or 1.0

        def means(kind: str) -> np.ndarray:
            return np.asarray([sign * ran[f"{kind}-{i}"].mean() for i in range(self.draws)])

        return [
            Found("equivalence", equivalence(sign * ran[CIRCUIT], sign * values.full, self.margin), CIRCUIT),
            Found("independence", independence(ran[REST], values.full, self.permutations, self.seed), REST),
            Found("sufficiency", exceeds(float(sign * ran[CIRCUIT].mean()), means(_RANDOM)), CIRCUIT),
            Found("necessity", exceeds(float(-sign * ran[REST].mean()), -means(_WITHOUT)), REST),
        ]
