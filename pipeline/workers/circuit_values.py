"""Circuits on one shard: which ones the evaluations want, and the metric of every prompt when only they are kept.

Knows merged scores, evaluations and the files of values. Does not know how values become findings, nor who asks: the
job travels, the circuits are chosen again from the run directory by whoever needs them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool

from pipeline.config import RunConfig
from pipeline.config.related import null_of
from pipeline.core.circuit import Circuit
from pipeline.core.errors import ScoreError
from pipeline.core.items import EVALUATIONS, Item
from pipeline.core.selection import Rank
from pipeline.evaluation import Chosen, Evaluation, Recordings, Subject, Values, circuit_values, selections
from pipeline.store.place.where import Place
from pipeline.store.run.evaluations import (
    EMPTY,
    FAITHFULNESS,
    FULL,
    ByPrompt,
    Label,
    path_of,
    read_values,
)
from pipeline.store.run.opened import Run, open_run

if TYPE_CHECKING:
    from pipeline.ablations import Statistics
    from pipeline.engine.batch import Batch
    from pipeline.engine.patchable import PatchableModel


@dataclass(frozen=True)
class Judging:
    """Whose circuits are judged by whose prompts: those of these methods, found on the task `scored`, by those of
    `task`. `chosen` is the share of the edges of each method's circuit and its rule, where that one is judged and not
    all sizes. `others` are those of all tasks, where these are judged too: task, method, share, rule."""

    task: str
    scored: str
    methods: tuple[str, ...]
    chosen: tuple[tuple[float | None, Rank | None], ...] | None = None
    others: tuple[tuple[str, str, float | None, Rank | None], ...] = ()

    def asks(self, evaluation: Evaluation) -> bool:
        """Whether an evaluation is about these circuits and these prompts."""
        return (
            evaluation.of_chosen == (self.chosen is not None)
            and evaluation.of_others == bool(self.others)
            and (self.task == self.scored or not evaluation.of_own)
        )


@dataclass(frozen=True)
class RuleFile:
    """The circuits by one rule, of these methods. `is_first`: the file lies where that of a rule alone would. `number`
    is the round of an evaluation that searches, and `shards` those whose rounds before it goes on from."""

    rank: Rank
    methods: tuple[str, ...]
    key: str
    is_first: bool = True
    number: int = 0
    shards: tuple[int, ...] = ()

    def path(self, folder: Place, item: Item) -> Place:
        """Where it lies."""
        return path_of(folder, item, None if self.is_first else self.rank, self.number)


@dataclass(frozen=True)
class CircuitJob:
    """The metric of every circuit that one evaluation wants on one shard, by each of these rules: a file per rule, with
    the key of all that it depends on. They share the recorded runs."""

    of: Judging
    shard: int
    evaluation: str
    files: tuple["RuleFile", ...]

    @property
    def task(self) -> str:
        """Whose prompts it is of: with the shard, what a worker has at hand."""
        return self.of.task

    @property
    def item(self) -> Item:
        """What it is called, and where its files and the records of its failures lie."""
        return Item(EVALUATIONS, self.of.task, self.evaluation, self.shard)

    @property
    def name(self) -> str:
        return self.item.name


def subjects_of(path: Place, config: RunConfig, of: Judging) -> list[Subject]:
    """What is judged: the merged scores of the methods, by the first rule or the one that has chosen the circuit. Those
    without a metric or an ablation of their own are judged under the config's."""
    run = open_run(path)
    known, scored = config.method_ids, of.scored
    null = null_of(scored, config.task_ids)
    subjects = [
        Subject(
            of.task,
            method,
            run.edge_scores(method, scored),
            known[method].metric or config.metric,
            known[method].ablation or config.ablation,
            config.evaluate.ranks[0],
            run.truth(scored),
            run.true_nodes(scored),
            rows_of_prompts=partial(run.rows_of_prompts, method, scored),
            ids_of_prompts=partial(run.ids_of_prompts, scored),
            kept_of_resamples=partial(_kept, run, scored, config.resamples_of(method)),
            rows_of_null=None if null is None else partial(run.rows_of_prompts, method, null),
        )
        for method in of.methods
    ]
    if of.chosen is None:
        return subjects
    return [
        replace(
            chosen_at(replace(one, rank=rank or one.rank), fraction),
            others={
                task: circuit_at(
                    replace(one, scores=run.edge_scores(method, task), rank=rule or one.rank), share
                )
                for task, method, share, rule in of.others
                if method == one.method
            },
        )
        for one, (fraction, rank) in zip(subjects, of.chosen, strict=True)
    ]


def _kept(run: Run, task: str, methods: Sequence[str]) -> Bool[np.ndarray, "resample edge"] | None:
    """What these methods keep of a task; None where one of them has not come to its end."""
    if not methods or not all(run.merged_path(method, task).exists() for method in methods):
        return None
    return np.stack([run.circuit(method, task).mask for method in methods])


def chosen_at(subject: Subject, fraction: float | None) -> Subject:
    """The subject with its circuit of a share of the edges; the kept set where it is None."""
    rank = None if fraction is None else subject.rank
    return replace(subject, chosen=Chosen(circuit_at(subject, fraction), fraction, rank))


def circuit_at(subject: Subject, fraction: float | None) -> Circuit:
    """The circuit of a share of the edges by the subject's rule; the kept set where it is None."""
    fractions = () if fraction is None else (fraction,)
    return selections(fractions, subject.scores, rank=subject.rank)[0][1]


def by_rule(subjects: Sequence[Subject], file: RuleFile) -> list[Subject]:
    """The subjects whose circuits the file holds, by its rule; a chosen circuit keeps its own."""
    return [
        one if one.chosen is not None else replace(one, rank=file.rank)
        for one in subjects
        if one.method in file.methods
    ]


def circuits_of(
    subject: Subject, config: RunConfig, evaluation: str, so_far: Values | None = None
) -> dict[str, Circuit]:
    """Every circuit that an evaluation wants of a subject, by label; of one that searches, after what it has seen
    `so_far`. ScoreError where these are more than it says."""
    if evaluation == FAITHFULNESS:
        tops = selections(config.evaluate.edge_fractions, subject.scores, rank=subject.rank)
        return {label_of(fraction): circuit for fraction, circuit in tops}
    (asked,) = (one for one in config.evaluate.also if one.name == evaluation)
    circuits = asked.circuits(subject) if so_far is None else asked.further(subject, so_far)
    most = asked.n_circuits(subject.scores.graph, decides=subject.scores.kept is not None)
    most *= len(subject.others) if asked.of_others else 1
    if len(circuits) > most:
        raise ScoreError(
            f"{evaluation} wants {len(circuits)} circuits of {subject.method}, and its n_circuits() says {most}"
        )
    return circuits


def seen_so_far(path: Place, of: Judging, evaluation: str, file: RuleFile, method: str) -> Values | None:
    """What the rounds before that of a file have shown of a method; None before the first."""
    if not file.number:
        return None
    items = [Item(EVALUATIONS, of.task, evaluation, shard) for shard in file.shards]
    rounds = [[read_values(path_of(path, item, None, n)) for item in items] for n in range(file.number)]
    return values_over(rounds, method, evaluation)


def values_over(rounds: Sequence[Sequence[ByPrompt]], method: str, evaluation: str) -> Values | None:
    """What the shards of all rounds say of a method, over all of their prompts; None where nothing was run."""
    found: dict[str, np.ndarray] = {}
    for shards in rounds:
        labels = [
            label for of, name, label in (shards[0] if shards else ()) if (of, name) == (method, evaluation)
        ]
        for label in labels:
            found[label] = np.concatenate([shard[method, evaluation, label] for shard in shards])
    return Values(found.pop(FULL), found.pop(EMPTY), found) if found else None


def label_of(fraction: float | None) -> str:
    """Names a circuit within its method: the nominal share of edges, or `kept`."""
    return "kept" if fraction is None else f"{fraction!r}"


def together(circuits: Mapping[RuleFile, Mapping[Label, Circuit]]) -> dict[Label, Circuit]:
    """The circuits of all files in one mapping: what is recorded for one is there for all, and equal ones run once."""
    return {
        _of_file(file, label): circuit for file, own in circuits.items() for label, circuit in own.items()
    }


def apart(circuits: Mapping[RuleFile, Mapping[Label, Circuit]], values: ByPrompt) -> dict[RuleFile, ByPrompt]:
    """What was found of all circuits of `together`, by file and under their own labels."""
    found: dict[RuleFile, ByPrompt] = {}
    for file, own in circuits.items():
        labels = {_of_file(file, label): label for label in own}
        labels |= {(*label[:2], end): (*label[:2], end) for label in own for end in (FULL, EMPTY)}
        found[file] = {labels[label]: one for label, one in values.items() if label in labels}
    return found


def _of_file(file: RuleFile, label: Label) -> Label:
    method, evaluation, circuit = label
    return method, evaluation, f"{file.rank}/{circuit}"


def values_of(
    name: str,
    circuits: Mapping[Label, Circuit],
    subjects: Sequence[Subject],
    model: "PatchableModel",
    batches: "Sequence[Batch]",
    statistics: "Statistics | None",
    recordings: Recordings | None = None,
) -> ByPrompt:
    """The metric of every prompt, in the order of ids: of each method's full model, with no edge, and in its circuits;
    of a method without any, nothing. `circuits` are those of one evaluation.

    Methods that agree in metric and ablation are evaluated in one sweep. Raises ScoreError for values that
    are not finite. `recordings` are those of these batches.
    """
    order = np.argsort([prompt for batch in batches for prompt in batch.prompt_ids]).astype(np.intp)
    groups: dict[tuple[str, str], list[str]] = {}
    with_circuits = {label[0] for label in circuits}
    for subject in (one for one in subjects if one.method in with_circuits):
        groups.setdefault((subject.metric, subject.ablation), []).append(subject.method)
    found: ByPrompt = {}
    for (metric, ablation), members in groups.items():
        labels = [label for label in circuits if label[0] in members]
        masks = np.stack([circuits[label].mask for label in labels])
        values = circuit_values(model, batches, masks, metric, ablation, statistics, recordings)[:, order]
        if not np.isfinite(values).all():
            raise ScoreError(f"{name}: {metric} of a circuit is not finite; look at the model's logits")
        for method, evaluation in dict.fromkeys(label[:2] for label in labels):
            found |= {(method, evaluation, FULL): values[0], (method, evaluation, EMPTY): values[1]}
        found |= dict(zip(labels, values[2:], strict=True))
    return found
