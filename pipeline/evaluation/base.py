"""What every evaluation is: which circuits it wants run, and what it finds when they have.

Knows scores, circuits and means of metrics. Does not know models, files or who runs a circuit. Loads without torch.

An evaluation that wants no circuits is pure: it looks at scores, at the truth, or at how faithful circuits of several
sizes are. One that wants some gets the metric of every prompt with only these edges kept, which is a file per shard of
the prompts, committed like scores. What an evaluation raises is recorded like the failure of a method: the other
evaluations and shards go on.

One that is `of_chosen` judges a single circuit, which faithfulness has chosen on the prompts that the scores come from,
and does so on the prompts that the task holds out, where it holds some out. It may search: go on, in rounds, with
circuits that depend on what those before have shown over all prompts. One that is `of_others` gets the chosen
circuits of all tasks besides. One that is `of_own` is asked by the prompts alone that the scores come from.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Float
from pydantic import BaseModel, ConfigDict

from pipeline.core.circuit import Circuit
from pipeline.core.graph import Graph
from pipeline.core.prompt_rows import AnyRows
from pipeline.core.scores import EdgeScores
from pipeline.core.selection import Rank
from pipeline.evaluation.ratio import Ratio, faithfulness_over

Rows = AnyRows
CIRCUIT = "circuit"  # what the chosen one is called


def _no_rows() -> Rows | None:
    return None


def _none_kept() -> Bool[np.ndarray, "resample edge"] | None:
    return None


def _no_ids() -> Sequence[int]:
    return ()


@dataclass(frozen=True)
class Chosen:
    """The circuit that is judged: which share of the edges it is and by which rule (both None of a kept set), and how
    faithful on the prompts that chose it."""

    circuit: Circuit
    fraction: float | None
    rank: Rank | None = None
    discovery: Ratio = field(default_factory=lambda: Ratio(None))


@dataclass(frozen=True)
class Subject:
    """The merged scores of one task and method. `metric` and `ablation` are what circuits run under, `rank` how edges
    are ranked, `truth` the task's known circuit, where one is known for this model; `true_nodes` its senders, where no
    more than its nodes is known. `task` is whose prompts it is judged by. `chosen` is the circuit for evaluations that
    are of it, `others` those of all tasks by the same method, by task. `rows_of_prompts` reads the scores of single
    prompts, None where none are kept; `ids_of_prompts` says whose they are, in the order in which values come.
    `rows_of_null` reads those of the task's null data, and is None where the run has no null data of it.
    `kept_of_resamples` reads what a method that decides keeps of resampled prompts, None where it was not asked."""

    task: str
    method: str
    scores: EdgeScores
    metric: str
    ablation: str
    rank: Rank = "absolute"
    truth: Bool[np.ndarray, " edge"] | None = None
    true_nodes: Bool[np.ndarray, " sender"] | None = None
    chosen: Chosen | None = None
    rows_of_prompts: Callable[[], Rows | None] = _no_rows
    ids_of_prompts: Callable[[], Sequence[int]] = _no_ids
    others: Mapping[str, Circuit] = field(default_factory=dict)
    rows_of_null: Callable[[], Rows | None] | None = None
    kept_of_resamples: Callable[[], Bool[np.ndarray, "resample edge"] | None] = _none_kept

    @property
    def the_circuit(self) -> Circuit:
        """The chosen circuit; only evaluations that are of it may ask."""
        if self.chosen is None:
            raise ValueError(f"{self.method} on {self.task}: no circuit was chosen")
        return self.chosen.circuit


@dataclass(frozen=True)
class Values:
    """The metric of every prompt: of the full model, with no edge kept, and in each circuit by its label."""

    full: Float[np.ndarray, " prompt"]
    empty: Float[np.ndarray, " prompt"]
    circuits: Mapping[str, Float[np.ndarray, " prompt"]] = field(default_factory=dict)


@dataclass(frozen=True)
class Found:
    """One number that an evaluation has found, of one circuit where it is of one; None: it cannot be known."""

    quantity: str
    value: float | None
    circuit: str | None = None


def in_words(quantity: str, ratio: Ratio, circuit: str | None = None) -> list[Found]:
    """A ratio and both ends of its interval, as three numbers."""
    ends = (("", ratio.value), ("_low", ratio.low), ("_high", ratio.high))
    return [Found(quantity + suffix, value, circuit) for suffix, value in ends]


def faithful(values: Values) -> list[Found]:
    """faithfulness with faithfulness_low and _high of every circuit that was run."""
    return [
        one
        for label, by_prompt in values.circuits.items()
        for one in in_words("faithfulness", faithfulness_over(values.full, values.empty, by_prompt), label)
    ]


# (share of edges, faithfulness) of the top edges, from the smallest.
Curve = Sequence[tuple[float, float | None]]


class Evaluation(BaseModel):
    """Parameters of an evaluation. Subclasses define `n_circuits` and `circuits`, unless they are pure, and `find`,
    unless they ask how faithful these circuits are."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    of_chosen: ClassVar[bool] = False
    # whether what it finds depends on the rule; else it is asked once, not by each
    by_rank: ClassVar[bool] = True
    of_others: ClassVar[bool] = False  # of_chosen too
    of_own: ClassVar[bool] = False

    name: str

    def n_circuits(self, graph: Graph, *, decides: bool) -> int:
        """How many circuits it wants at most, in all rounds, of a method, which `decides` itself what it keeps or
        ranks all edges; of each task where it is of others."""
        return 0

    def circuits(self, subject: Subject) -> dict[str, Circuit]:
        """The circuits to run, by label."""
        return {}

    @property
    def rounds(self) -> int:
        """How often it wants circuits at most; more than once only where it is `of_chosen`."""
        return 1

    def further(self, subject: Subject, values: Values) -> dict[str, Circuit]:
        """The circuits of the next round, by labels that say all of what they are; `values` are those of all rounds
        before. None: it has what it wants."""
        return {}

    def find(self, subject: Subject, values: Values | None, curve: Curve) -> list[Found]:
        """What is found: of each of its circuits faithfulness with its ends, unless a subclass looks at more. `values`
        are those of its circuits, None where it wanted none; `curve` is that of faithfulness, from the smallest share
        to the largest, empty for a method that decides."""
        if values is None:
            raise NotImplementedError
        return faithful(values)
