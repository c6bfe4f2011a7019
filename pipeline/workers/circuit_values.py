"""Circuits on one shard: which ones the evaluations want, and the metric of every prompt when only they are kept.

Knows merged scores, evaluations and the files of values. Does not know how values become findings, nor who asks: the
job travels, the circuits are chosen again from the run directory by whoever needs them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.config import RunConfig
from pipeline.core.circuit import Circuit
from pipeline.core.errors import ScoreError
from pipeline.evaluation import Evaluation, Subject, circuit_values, selections
from pipeline.store.place.where import Place
from pipeline.store.run.evaluations import EMPTY, FULL, ByPrompt, Label
from pipeline.store.run.opened import open_run

if TYPE_CHECKING:
    from pipeline.ablations import Statistics
    from pipeline.engine.batch import Batch
    from pipeline.engine.patchable import PatchableModel

FAITHFULNESS = "faithfulness"  # which is always looked at


@dataclass(frozen=True)
class CircuitJob:
    """The metric of every circuit of these methods on one shard: a file. `key` is of all that it depends on."""

    task: str
    shard: int
    methods: tuple[str, ...]
    key: str

    @property
    def name(self) -> str:
        return f"{self.task}/circuits/{self.shard}"


def subjects_of(path: Place, config: RunConfig, task: str, methods: Iterable[str]) -> list[Subject]:
    """What is judged of a task: the merged scores of its methods. Methods without a metric or an ablation of their own
    are judged under the config's."""
    run = open_run(path)
    known = config.method_ids
    return [
        Subject(
            task,
            method,
            run.edge_scores(method, task),
            known[method].metric or config.metric,
            known[method].ablation or config.ablation,
            config.evaluate.rank,
            run.truth(task),
            run.true_nodes(task),
        )
        for method in methods
    ]


def circuits_of(subject: Subject, config: RunConfig) -> dict[tuple[str, str], Circuit]:
    """Every circuit that is wanted of a subject, by evaluation and label."""
    tops = selections(config.evaluate.edge_fractions, subject.scores, rank=subject.rank)
    wanted = {(FAITHFULNESS, label_of(fraction)): circuit for fraction, circuit in tops}
    for evaluation in config.evaluate.also:
        wanted |= _labelled(evaluation, subject)
    return wanted


def _labelled(evaluation: Evaluation, subject: Subject) -> dict[tuple[str, str], Circuit]:
    return {(evaluation.name, label): circuit for label, circuit in evaluation.circuits(subject).items()}


def label_of(fraction: float | None) -> str:
    """Names a circuit within its method: the nominal share of edges, or `kept`."""
    return "kept" if fraction is None else f"{fraction!r}"


def values_of(
    name: str,
    circuits: Mapping[Label, Circuit],
    subjects: Sequence[Subject],
    model: "PatchableModel",
    batches: "Sequence[Batch]",
    statistics: "Statistics | None",
) -> ByPrompt:
    """The metric of every prompt, in the order of ids: of each method's full model, with no edge, and in its circuits.

    Methods that agree in metric and ablation are evaluated in one sweep. Raises ScoreError for values that
    are not finite.
    """
    order = np.argsort(np.concatenate([batch.prompt_ids for batch in batches]))
    groups: dict[tuple[str, str], list[str]] = {}
    for subject in subjects:
        groups.setdefault((subject.metric, subject.ablation), []).append(subject.method)
    found: ByPrompt = {}
    for (metric, ablation), members in groups.items():
        labels = [label for label in circuits if label[0] in members]
        masks = np.stack([circuits[label].mask for label in labels])
        values = circuit_values(model, batches, masks, metric, ablation, statistics)[:, order]
        if not np.isfinite(values).all():
            raise ScoreError(f"{name}: {metric} of a circuit is not finite; look at the model's logits")
        for method in members:
            found |= {(method, FAITHFULNESS, FULL): values[0], (method, FAITHFULNESS, EMPTY): values[1]}
        found |= dict(zip(labels, values[2:], strict=True))
    return found
