"""Evaluating circuits on one shard: which ones, and what the metric is when only they are kept.

Knows aggregated scores, selections and `pipeline.evaluation`. Does not know how values become faithfulness, nor
who asks: the job travels, the circuits are selected again from the run directory by whoever needs them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from pipeline.core.circuit import Circuit
from pipeline.core.errors import ScoreError
from pipeline.evaluation import circuit_values, selections
from pipeline.methods import Method
from pipeline.store.place import Place
from pipeline.store.results import edge_scores, open_run

if TYPE_CHECKING:
    from pipeline.ablations import Statistics
    from pipeline.engine.batch import Batch
    from pipeline.engine.patchable import PatchableModel

Selection = list[tuple[float | None, Circuit]]  # (nominal share of edges or None for a kept set, circuit)


@dataclass(frozen=True)
class CircuitJob:
    """The metric of every circuit of these methods on one shard; computed and returned, not committed."""

    task: str
    shard: int
    methods: tuple[str, ...]
    fractions: tuple[float, ...]
    rank: str

    @property
    def name(self) -> str:
        return f"{self.task}/circuits/{self.shard}"


def select(path: Place, job: CircuitJob) -> dict[str, Selection]:
    """The circuits of every method of the job, from the run's aggregated scores."""
    run = open_run(path)
    return {
        method: selections(job.fractions, edge_scores(run, job.task, method), rank=job.rank)
        for method in job.methods
    }


def values_of(
    job: CircuitJob,
    circuits: Mapping[str, Selection],
    methods: Mapping[str, Method],
    model: "PatchableModel",
    batches: "Sequence[Batch]",
    statistics: "Statistics | None",
) -> dict[str, Float[np.ndarray, "variant prompt"]]:
    """Per method, the metric of every prompt in the order of ids: full model, no edge, then its circuits.

    Methods that agree in metric and ablation are evaluated in one sweep. Raises ScoreError for values that
    are not finite.
    """
    order = np.argsort(np.concatenate([batch.prompt_ids for batch in batches]))
    groups: dict[tuple[str, str], list[str]] = {}
    for method in job.methods:
        groups.setdefault((str(methods[method].metric), str(methods[method].ablation)), []).append(method)
    found = {}
    for (metric, ablation), members in groups.items():
        masks = np.stack([circuit.mask for method in members for _, circuit in circuits[method]])
        values = circuit_values(model, batches, masks, metric, ablation, statistics)[:, order]
        if not np.isfinite(values).all():
            raise ScoreError(f"{job.name}: {metric} of a circuit is not finite; look at the model's logits")
        start = 2
        for method in members:
            stop = start + len(circuits[method])
            found[method] = np.concatenate([values[:2], values[start:stop]])
            start = stop
    return found
