"""What every method is: frozen parameters, an id, what it needs, what comes out, a cost, and a `run`.

Knows config values. Does not know how any method computes; `run` of each method imports the engine when called. Loads
without torch.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeVar

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field

from pipeline.ablations import ABLATIONS, get_ablation
from pipeline.core.entries import Entry
from pipeline.core.errors import ConfigError
from pipeline.core.graph import Graph
from pipeline.core.prompts import POSITION_WORDS, span_name_problem
from pipeline.core.results import EDGE_SCORES, NODE_SCORES, Result, ResultType
from pipeline.core.scores import EdgeScores, NodeScores
from pipeline.core.spelling import spelt
from pipeline.methods.work import Work
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
Several = BeforeValidator(
    lambda value: (value,) if isinstance(value, str) else value
)  # a name alone is one of a list
Names = Annotated[tuple[str, ...], Several]
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


@dataclass(frozen=True)
class Needs:
    """What a method cannot do without. `wide`: it subtracts numbers that hardly differ, and says what to use instead
    where 16 bits would leave rounding."""

    metric: bool = True
    ablation: bool = True
    gradient: bool = False
    wide: str | None = None


class Method(Entry):
    """Parameters of a method. Subclasses add fields, and define `cost` and `run`."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    result: ClassVar[ResultType] = EDGE_SCORES
    needs: ClassVar[Needs] = Needs()
    swept: ClassVar[str | None] = None  # a parameter of which many values cost little more than one
    scores_prompts: ClassVar[bool] = False  # whether it has a score of every edge for every prompt
    reads_sequences: ClassVar[bool] = True  # whether it measures answers of several tokens
    default_metric: ClassVar[str | None] = None  # None: the config's
    elsewhere: ClassVar[frozenset[str]] = frozenset()  # parameters that say where something lies
    decides: ClassVar[bool] = (
        False  # whether it keeps a set of edges, the one circuit at which it is evaluated
    )

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
    def kind(self) -> ResultType:
        """The type of its results with these parameters."""
        return self.result

    @property
    def span(self) -> str | None:
        """The span of prompts that is read, or None; prompts without it are left out."""
        positions = getattr(self, "positions", "all")
        return None if positions in POSITION_WORDS else positions

    @property
    def spans(self) -> tuple[str, ...]:
        """All spans of prompts that are read; prompts that lack one are left out."""
        return () if self.span is None else (self.span,)

    @property
    def pooled(self) -> bool:
        """Whether it looks at all prompts of a task together, and not shard by shard."""
        return False

    @property
    def drawn(self) -> int | None:
        """Which resample of a task's prompts it is of; None: the prompts themselves. What it finds of a resample says
        whether that of the prompts is stable, and is judged by nothing else."""
        return None

    @property
    def combines(self) -> tuple[str, ...]:
        """Ids of methods of the same run whose scores of the same prompts it reads, and nothing else: they come first,
        and it is measured as they are."""
        return ()

    def expanded(self: M) -> "list[M]":
        """The methods that this entry stands for: itself, unless it holds several values of a parameter."""
        return [self]

    def resolved(self: M, metric: str, ablation: str) -> M:
        """A copy with metric and ablation written out: its own, else its kind's default, else the given ones; none
        where it needs none."""
        named = self.metric or (self.default_metric or metric if self.needs.metric else None)
        written = self.ablation or (ablation if self.needs.ablation else None)
        values = {
            "metric": named and spelt(named, METRICS),
            "ablation": written and spelt(written, ABLATIONS),
        }
        return self.model_copy(update=values)

    def anchored(self: M) -> M:
        """The same wherever the process is: with absolute paths."""
        return self

    def check(self, dtype: str) -> None:
        """Raises ConfigError when this method, resolved, means nothing with its metric, its ablation, or in a model of
        that dtype ("float32")."""
        for what, wanted, given in (
            ("metric", self.needs.metric, self.metric),
            ("ablation", self.needs.ablation, self.ablation),
        ):
            if given is not None and not wanted:
                raise ConfigError(f"{self.name} needs no {what}; leave {what}: {given} out")
        if self.ablation is not None:
            get_ablation(self.ablation)
        if self.metric is not None and not get_metric(self.metric).has_gradient and self.needs.gradient:
            raise ConfigError(
                f"{self.name} needs a gradient and {self.metric} has none; use logit_diff, prob_diff or nll"
            )
        if self.needs.wide is not None and dtype in ("bfloat16", "float16"):
            raise ConfigError(f"{self.name} in {dtype} {self.needs.wide}")

    def check_names(self, graph: Graph) -> None:
        """Raises ConfigError when it names nodes that the graph does not have."""

    def cost(self, graph: Graph, lengths: Sequence[int]) -> Cost:
        """Work for prompts of these token lengths."""
        raise NotImplementedError

    def run(self, work: Work) -> Result:
        """The result over all prompts of the work, whose metric and ablation are set and checked."""
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
    ) -> Result:
        """The result over all prompts of `batches`. Metric and ablation default to the method's own, then to
        `logit_diff` and `corrupted`. `statistics` holds the means where the ablation needs them; `per_prompt` asks for
        the scores of every prompt too, where the method has them."""
        this = self.ready(model, metric, ablation)
        return this.run(Work(model, batches, this.metric, this.ablation, statistics, per_prompt))

    def ready(self: M, model: "PatchableModel", metric: str | None, ablation: str | None) -> M:
        """A resolved copy that means something with that model; ConfigError otherwise."""
        called = self.model_copy(update={"metric": self.metric or metric})  # beats its kind's default
        this = called.resolved("logit_diff", ablation or "corrupted")
        this.check(str(model.hf.dtype).removeprefix("torch."))
        return this


class EdgeMethod(Method):
    """A method that scores edges prompt by prompt."""

    scores_prompts: ClassVar[bool] = True

    if TYPE_CHECKING:

        def score(self, *args: Any, **options: Any) -> EdgeScores: ...


class NodeMethod(Method):
    """A method that scores nodes."""

    result: ClassVar[ResultType] = NODE_SCORES

    if TYPE_CHECKING:

        def score(self, *args: Any, **options: Any) -> NodeScores: ...


def _slug(value: Any) -> str:
    """A parameter value inside of an id: lower case, without what an id may not hold."""
    if isinstance(value, float):
        value = f"{value:g}"
    return re.sub(r"[^a-z0-9._]+", "_", str(value).lower()).strip("_") or "none"


def span_of(positions: str) -> str | None:
    """The span of positions that scores are of; None is all of them."""
    return None if positions == "all" else positions


def captures(ablation: str | None) -> int:
    """Recorded runs per prompt: the clean one, and the corrupted one where it is what ablates."""
    return 2 if ablation is None or get_ablation(ablation).needs_corrupted else 1
