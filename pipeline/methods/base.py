"""What every method is: frozen parameters, an id, a cost, and a `score`. Loads without torch.

Knows config values. Does not know how any method computes; `score` of each method imports the engine when called.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar

import numpy as np
from jaxtyping import Bool, Float
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from pipeline.ablations import ABLATIONS, get_ablation
from pipeline.core.errors import ConfigError
from pipeline.core.graph import Graph
from pipeline.core.prompts import POSITION_WORDS, span_name_problem
from pipeline.core.scores import EdgeScores, Moments, NodeScores
from pipeline.core.spelling import spelt
from pipeline.metrics import METRICS, get_metric

if TYPE_CHECKING:
    from pipeline.ablations import Statistics
    from pipeline.engine.batch import Batch
    from pipeline.engine.patchable import PatchableModel

M = TypeVar("M", bound="Method")


def _position(value: str) -> str:
    if value in ("all", "last"):
        return value
    if value in POSITION_WORDS:
        raise ValueError(f"{value} is for node_patching; give all, last or the name of a span")
    return _span(value)


def _node_position(value: str) -> str:
    return value if value in POSITION_WORDS else _span(value)


def _span(name: str) -> str:
    if problem := span_name_problem(name):
        raise ValueError(f"{name!r} {problem}; give all, last or the name of a span")
    return name


Positions = Annotated[str, AfterValidator(_position)]
NodePositions = Annotated[str, AfterValidator(_node_position)]
POSITIONS = "where a sender's value is exchanged: all, last (the answer), or a span that prompts name"


@dataclass(frozen=True)
class Cost:
    """Work for a set of prompts, in prompts: forward and backward passes of the stock model, and evaluations
    of a part of it under a patch. `evaluations_at_most` says that the last is a bound, known only after the
    run."""

    forward_passes: int = 0
    backward_passes: int = 0
    evaluations: int = 0
    rows: int = 0
    evaluations_at_most: bool = False

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.forward_passes + other.forward_passes,
            self.backward_passes + other.backward_passes,
            self.evaluations + other.evaluations,
            self.rows + other.rows,
            self.evaluations_at_most or other.evaluations_at_most,
        )


class Method(BaseModel):
    """Parameters of a method. Subclasses add fields and define `cost` and `score`."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    level: ClassVar[Literal["edge", "node"]] = "edge"
    swept: ClassVar[str | None] = None  # a parameter of which many values cost little more than one
    scores_prompts: ClassVar[bool] = True  # False: an edge's score belongs to all prompts together
    default_metric: ClassVar[str | None] = None  # None: the config's

    name: str
    as_: str | None = Field(
        default=None, alias="as", description="id of this entry, instead of the derived one"
    )
    metric: str | None = Field(default=None, description="what is measured; default: the config's metric")
    ablation: str | None = Field(
        default=None, description="what an ablated sender writes; default: the config's"
    )

    @property
    def id(self) -> str:
        """`as` if given, else the name and every parameter that differs from its default, in order."""
        if self.as_ is not None:
            return self.as_
        parts = [self.name]
        for key, field in type(self).model_fields.items():
            value = getattr(self, key)
            if key not in ("name", "as_") and value != field.default:
                parts.append(_slug(value))
        return "-".join(parts)[:80]

    @property
    def decides(self) -> bool:
        """Whether it keeps a set of edges of its own, the one circuit at which it is evaluated, and not just scores
        them: it looks at all prompts together."""
        return self.level == "edge" and not self.scores_prompts

    @property
    def span(self) -> str | None:
        """The span of prompts that is read, or None; prompts without it are left out."""
        positions = getattr(self, "positions", "all")
        return None if positions in POSITION_WORDS else positions

    def expanded(self: M) -> "list[M]":
        """The methods that this entry stands for: itself, unless it holds several values of a parameter."""
        return [self]

    def resolved(self: M, metric: str, ablation: str) -> M:
        """A copy with metric and ablation written out: its own, else its kind's default, else the given ones."""
        values = {
            "metric": spelt(self.metric or self.default_metric or metric, METRICS),
            "ablation": spelt(self.ablation or ablation, ABLATIONS),
        }
        return self.model_copy(update=values)

    def check(self, metric: str, ablation: str) -> None:
        """Raises ConfigError when this method means nothing with that metric and ablation."""
        get_metric(metric)
        get_ablation(ablation)

    @property
    def pooled(self) -> bool:
        """Whether it looks at all prompts of a task together, and not shard by shard."""
        return False

    def check_dtype(self, dtype: str) -> None:
        """Raises ConfigError when this method means something else in a model of that dtype ("float32")."""

    def cost(self, graph: Graph, lengths: Sequence[int]) -> Cost:
        """Work for prompts of these token lengths."""
        raise NotImplementedError

    def score(
        self,
        model: "PatchableModel",
        batches: "Sequence[Batch]",
        *,
        metric: str | None = None,
        ablation: str | None = None,
        statistics: "Statistics | None" = None,
        per_prompt: bool = False,
    ) -> EdgeScores | NodeScores:
        """Scores over all prompts of `batches`. Metric and ablation default to the method's own, then to
        `logit_diff` and `corrupted`. `statistics` holds the means where the ablation needs them."""
        raise NotImplementedError

    def ready(self: M, model: "PatchableModel", metric: str | None, ablation: str | None) -> M:
        """A resolved copy that means something with that model; ConfigError otherwise."""
        this = self.resolved(metric or "logit_diff", ablation or "corrupted")
        this.check(this.metric, this.ablation)  # type: ignore[arg-type]  # resolved: both are set
        this.check_dtype(str(model.hf.dtype).removeprefix("torch."))
        return this


class EdgeMethod(Method):
    """A method that scores edges prompt by prompt. Subclasses define `measure`."""

    def score(
        self,
        model: "PatchableModel",
        batches: "Sequence[Batch]",
        *,
        metric: str | None = None,
        ablation: str | None = None,
        statistics: "Statistics | None" = None,
        per_prompt: bool = False,
    ) -> EdgeScores:
        """Every edge's mean and spread, and with `per_prompt` the scores of every prompt; see `Method.score`."""
        this = self.ready(model, metric, ablation)
        return this.measure(model, batches, statistics, per_prompt=per_prompt)

    def measure(
        self,
        model: "PatchableModel",
        batches: "Sequence[Batch]",
        statistics: "Statistics | None",
        *,
        per_prompt: bool,
    ) -> EdgeScores:
        """`score` of a method whose metric and ablation are set and checked."""
        raise NotImplementedError


class NodeMethod(Method):
    """A method that scores nodes. Subclasses define `measure`."""

    level: ClassVar[Literal["edge", "node"]] = "node"
    scores_prompts: ClassVar[bool] = False

    def score(
        self,
        model: "PatchableModel",
        batches: "Sequence[Batch]",
        *,
        metric: str | None = None,
        ablation: str | None = None,
        statistics: "Statistics | None" = None,
        per_prompt: bool = False,  # noqa: ARG002 - node scores have no per-prompt table
    ) -> NodeScores:
        """Every node's mean and spread over prompts; see `Method.score`."""
        return self.ready(model, metric, ablation).measure(model, batches, statistics)

    def measure(
        self, model: "PatchableModel", batches: "Sequence[Batch]", statistics: "Statistics | None"
    ) -> NodeScores:
        """`score` of a method whose metric and ablation are set and checked."""
        raise NotImplementedError


def _slug(value: Any) -> str:
    """A parameter value inside of an id: lower case, without what an id may not hold."""
    if isinstance(value, float):
        value = f"{value:g}"
    return re.sub(r"[^a-z0-9._]+", "_", str(value).lower()).strip("_") or "none"


def require_gradient(method: str, metric: str) -> None:
    """Gradient methods need a metric that has one."""
    if not get_metric(metric).has_gradient:
        raise ConfigError(
            f"{method} needs a gradient and {metric} has none; use logit_diff, prob_diff or nll"
        )


def require_wide(method: str, dtype: str) -> None:
    """Exact methods subtract two metrics that hardly differ; in 16 bits the difference is mostly rounding."""
    if dtype in ("bfloat16", "float16"):
        raise ConfigError(
            f"{method} in {dtype} measures rounding; set model.dtype: float32, or use eap or eap_ig"
        )


def span_of(positions: str) -> str | None:
    """The span of positions that scores are of; None is all of them."""
    return None if positions == "all" else positions


def which_have(batches: "Sequence[Batch]", positions: str) -> Bool[np.ndarray, " prompt"]:
    """Which of all prompts have the named positions."""
    return np.concatenate([batch.having(positions).cpu().numpy() for batch in batches])


def captures(ablation: str | None) -> int:
    """Recorded runs per prompt: the clean one, and the corrupted one where it is what ablates."""
    return 2 if ablation in (None, "corrupted") else 1


class PromptTable:
    """Collects per-prompt scores batch by batch into moments, and keeps the rows themselves where asked to.

    `there` says which of all prompts are scored; the others are counted nowhere, and their rows are NaN."""

    def __init__(self, n_entries: int, there: Bool[np.ndarray, " prompt"], *, keep: bool) -> None:
        self._there = there
        nothing = np.full(n_entries, np.nan)
        self.moments = Moments(np.zeros(n_entries, dtype=np.int64), nothing, nothing)
        self._rows: list[np.ndarray] | None = [] if keep else None

    def add(self, rows: Float[np.ndarray, "prompt entry"]) -> None:
        """Rows of the next prompts that are scored."""
        part = Moments.of(rows)
        self.moments = part if not self.moments.n.any() else Moments.merge([self.moments, part])
        if self._rows is not None:
            self._rows.append(rows)

    @property
    def rows(self) -> Float[np.ndarray, "prompt entry"] | None:
        """A row for each of all prompts, or None where they were not kept."""
        if self._rows is None:
            return None
        rows = np.full((len(self._there), len(self.moments.n)), np.nan)
        rows[self._there] = np.concatenate([rows[:0], *self._rows])
        return rows
