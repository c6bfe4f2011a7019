"""Faithfulness: how much of the behaviour a circuit keeps when all other edges are ablated.

    faithfulness = (m(circuit) - m(empty)) / (m(full) - m(empty)),  each m averaged over prompts first

As CPR/CMD of the MIB benchmark; not clipped. For a divergence m(full) is 0, so this is 1 - D(circuit) / D(empty).
Exact: every receiver has its own input, everything is recomputed that an answer depends on. A circuit of which all
edges dangle has the value of the empty one to the last bit. Knows circuits and metrics, not methods or files.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float

from pipeline.ablations import Statistics, get_ablation, record
from pipeline.core.circuit import Circuit
from pipeline.core.scores import EdgeScores
from pipeline.core.wiring import Wiring, wire
from pipeline.evaluation.ratio import NO_DENOMINATOR
from pipeline.metrics import get_metric

if TYPE_CHECKING:
    from pandas import DataFrame
    from torch import Tensor

    from pipeline.engine.batch import Batch
    from pipeline.engine.emptied import Emptied
    from pipeline.engine.patchable import PatchableModel

# Bytes that one batch's sender outputs may take while circuits run; larger batches are split.
_BATCH_BYTES = 2**28


@dataclass(frozen=True)
class _Recorded:
    """A part of a batch, what answers read in its clean run, and the empty circuit, from which all others start."""

    batch: "Batch"
    clean: "Tensor"
    emptied: "Emptied"


class Recordings:
    """The recorded runs of some batches, for several calls of `circuit_values` with the same batches and statistics:
    those after the first need no pass of the model. Kept are as many as one call takes without them at most. Values are
    the same to the last bit."""

    def __init__(self) -> None:
        self._kept: dict[str, list[_Recorded]] = {}
        self._bytes = 0

    def of(
        self,
        model: "PatchableModel",
        batches: "Sequence[Batch]",
        ablation: str,
        statistics: Statistics | None,
    ) -> "Iterable[_Recorded]":
        """The recorded parts of all batches under an ablation, in their order."""
        if ablation in self._kept:
            return self._kept[ablation]
        parts = _recorded(model, batches, ablation, statistics)
        size = sum(batch.n_prompts * _bytes_of_prompt(model, batch) for batch in batches)
        if self._bytes + size > _BATCH_BYTES:
            return parts
        self._bytes += size
        return self._kept.setdefault(ablation, [*parts])


def recorded_once(n_senders: int, tokens: int, width: int, ablations: int) -> bool:
    """Whether the recorded runs of prompts of so many tokens in all are kept for further calls."""
    return n_senders * tokens * width * 4 * ablations <= _BATCH_BYTES


def _recorded(
    model: "PatchableModel", batches: "Sequence[Batch]", ablation: str, statistics: Statistics | None
) -> "Iterator[_Recorded]":
    from pipeline.engine.emptied import Emptied

    for batch in (part for whole in batches for part in whole.split(_prompts_at_once(model, whole))):
        runs = record(model, batch, ablation, statistics)
        executor = model.executor(runs.clean, runs.answer_pos)
        clean = executor.answer_hidden(runs.clean)
        yield _Recorded(batch, clean, Emptied.of(model.parts, model.graph, executor, runs.clean, runs.values))


def circuit_values(
    model: "PatchableModel",
    batches: "Sequence[Batch]",
    masks: Bool[np.ndarray, "circuit edge"],
    metric: str = "logit_diff",
    ablation: str = "corrupted",
    statistics: Statistics | None = None,
    recordings: Recordings | None = None,
) -> Float[np.ndarray, "row prompt"]:
    """The metric of every prompt in the full graph, in the empty one, and in each circuit.

    float64 [2 + circuits, prompt]; prompts follow each other as in the batches. `recordings` are what earlier calls
    have recorded of these batches.
    """
    import torch

    from pipeline.engine.circuit_run import run_circuits

    graph = model.graph
    wirings = wire(graph, model.coupled, masks, mute=get_ablation(ablation).name == "corrupted")
    circuits = [wiring.mask for wiring in wirings]
    different = {circuit.tobytes(): w for circuit, w in zip(circuits, wirings, strict=True)}
    full, empty = np.ones(graph.n_edges, dtype=bool), np.zeros(graph.n_edges, dtype=bool)
    run = [key for key in different if key not in (full.tobytes(), empty.tobytes())]
    columns = []
    for one in (recordings or Recordings()).of(model, batches, ablation, statistics):
        batch, clean, emptied = one.batch, one.clean, one.emptied
        objective = model.objective(get_metric(metric), batch, clean)
        hidden = {full.tobytes(): clean, empty.tobytes(): emptied.hidden()}
        for some in _at_once(model, batch, [different[key] for key in run]):
            found = run_circuits(emptied, some)
            hidden |= {wiring.mask.tobytes(): final for wiring, final in zip(some, found, strict=True)}
        model.counters.evaluations += batch.n_prompts * len(run)
        keys = [circuit.tobytes() for circuit in (full, empty, *circuits)]
        columns.append(objective(torch.stack([hidden[key] for key in keys])).cpu().numpy())
    return np.concatenate([np.zeros((2 + len(masks), 0)), *columns], axis=1)


def _at_once(model: "PatchableModel", batch: "Batch", wirings: Sequence[Wiring]) -> Iterator[list[Wiring]]:
    """The circuits in groups whose senders' outputs fit into memory together."""
    each = batch.n_prompts * batch.length * model.config.hidden_size * 4
    group: list[Wiring] = []
    used = 0
    for wiring in wirings:
        size = each * int(wiring.everywhere.sum())
        if group and used + size > 2 * _BATCH_BYTES:
            yield group
            group, used = [], 0
        group.append(wiring)
        used += size
    if group:
        yield group


def _prompts_at_once(model: "PatchableModel", batch: "Batch") -> int:
    return max(1, _BATCH_BYTES // _bytes_of_prompt(model, batch))


def _bytes_of_prompt(model: "PatchableModel", batch: "Batch") -> int:
    """What the outputs of all senders take for a prompt of a batch."""
    return int(model.graph.n_senders * batch.length * model.config.hidden_size * 4)


def faithfulness_of(full: float, empty: float, circuit: float) -> float | None:
    """(circuit - empty) / (full - empty) of mean metrics; None where the denominator vanishes."""
    if not abs(full - empty) >= NO_DENOMINATOR:
        return None
    return (circuit - empty) / (full - empty)


def selections(
    fractions: Sequence[float], scores: EdgeScores, rank: str = "absolute"
) -> list[tuple[float | None, Circuit]]:
    """The circuits at which scores are evaluated: the kept set of a method that decides, else the top edges.

    For a fraction k the circuit has floor(k x edges) edges, by |score| unless `rank` is signed.
    """
    if scores.kept is not None:
        return [(None, Circuit.from_scores(scores))]
    n_edges = scores.graph.n_edges
    # 0.1 * 30 is 3.0000000000000004 or 2.9999999999999996: the product is rounded before it is floored
    tops = [(fraction, math.floor(round(fraction * n_edges, 9))) for fraction in fractions]
    return [(fraction, Circuit.from_scores(scores, top=top, rank=rank)) for fraction, top in tops]


def evaluate(
    circuit: Circuit,
    model: "PatchableModel",
    batches: "Sequence[Batch]",
    metric: str = "logit_diff",
    ablation: str = "corrupted",
    statistics: Statistics | None = None,
) -> "DataFrame":
    """One row: n_edges n_edges_pruned metric metric_full metric_empty metric_circuit faithfulness.

    Where a norm follows attention (Gemma 2 and 3, OLMo-2), receivers norm the sum over a layer's heads, kept and
    ablated together, as MIB does, unless the model was loaded with `post_norm="own"`: that gives other numbers.
    """
    import pandas as pd

    values = circuit_values(model, batches, circuit.mask[None], metric, ablation, statistics)
    return pd.DataFrame([measured(circuit, get_metric(metric).name, *values.mean(axis=1))])


def measured(circuit: Circuit, metric: str, full: float, empty: float, value: float) -> dict[str, Any]:
    """The row of one circuit from mean metrics."""
    return {
        "n_edges": circuit.n_edges,
        "n_edges_pruned": circuit.pruned.n_edges,
        "metric": metric,
        "metric_full": full,
        "metric_empty": empty,
        "metric_circuit": value,
        "faithfulness": faithfulness_of(full, empty, value),
    }
