"""The best circuit of a run: over tasks, methods and sizes, the smallest that does what the model does.

Knows how a run is read. Does not know how a circuit is drawn or told.
"""

from dataclasses import dataclass

from pipeline.core.circuit import Circuit
from pipeline.report.essentials import (
    NEAR,
    choose_circuit,
    evaluated,
    faithfulness,
    rows_of,
    scores,
    verdicts_of,
)
from pipeline.store.run.opened import Run


@dataclass(frozen=True)
class Best:
    """A circuit, where it is from, and what there is to say of it."""

    task: str
    method: str
    circuit: Circuit
    faithfulness: float | None
    words: str


def best_circuit(run: Run) -> Best | None:
    """Of the circuits that each task and method shows, the one with the fewest edges (dangling ones left out) whose
    faithfulness is within 0.15 of 1; where none is, the one nearest to 1; None where nothing was evaluated."""
    curve, verdicts = faithfulness(run), verdicts_of(run, evaluated(run))
    found = []
    for task in run.tasks:
        for method in run.methods:
            if run.level(method) != "edge" or (frame := scores(run, task, method)) is None:
                continue
            circuit, facts = choose_circuit(run, frame, rows_of(curve, task, method), verdicts)
            if facts["faithfulness"] is not None:
                found.append(Best(task, method, circuit, facts["faithfulness"], facts["words"]))
    return min(found, key=_order, default=None)


def _order(best: Best) -> tuple[bool, float]:
    away = abs((best.faithfulness or 0.0) - 1)
    near = away <= NEAR + 1e-9
    return not near, best.circuit.pruned.n_edges if near else away
