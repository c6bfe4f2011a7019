"""What a result is: a table whose rows are of declared axes and whose values are merged over shards in a declared way.

Knows axes, values and their names. Does not know files, tensors or who measured. A new kind of result is a
`ResultType` beside the method that has it: from that follow its folder, its columns, how shards merge, what verify
checks and how it is read. Runs carry the declaration, so that reading them needs no code of a method.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from jaxtyping import Bool, Float, Int

from pipeline.core.errors import ScoreError
from pipeline.core.items import is_id
from pipeline.core.scores import EdgeScores, Moments, NodeScores
from pipeline.core.showing import page

Axis = Literal[
    "edge",
    "node",
    "layer",
    "head",
    "neuron",
    "span",
    "span_to",
    "position",
    "token",
    "quantity",
    "prompt",
    "step",
]
# Folders of a run that are no type's own.
_FOLDERS = frozenset(
    (
        *("scores", "node_scores", "aggregate", "node_aggregate", "baseline", "statistics", "prompt_metrics"),
        *("prompt_scores", "decisions", "failures", "circuits", "evaluations"),
    )
)
NAMED: frozenset[str] = frozenset(("span", "span_to", "token", "quantity"))  # by words; others by numbers
Merge = Literal["moments", "concat"]


@dataclass(frozen=True)
class ResultType:
    """A kind of result.

    `name` is the kind of its items and the folder of their files, `merged` that of the tables over all shards. A row is
    of one value of every axis. `moments`: `value` is a mean over prompts with a spread, and shards merge as means do;
    `concat`: rows stand for themselves (they have the axis prompt, or there is one shard), and follow each other.
    `decides`: rows may say whether an edge is kept. `bounded`: rows say how far off their value is at most, null where
    it is exact; they are read like all others of the type.
    """

    name: str
    axes: tuple[Axis, ...]
    value: str = "score"
    merge: Merge = "moments"
    merged: str = ""
    decides: bool = False
    bounded: bool = field(default=False, compare=False)

    def __post_init__(self) -> None:
        known, words = get_args(Axis), (self.name, self.value, self.merged or self.name)
        if not self.axes or not set(self.axes) <= set(known) or len(set(self.axes)) < len(self.axes):
            raise ValueError(f"{self.name}: axes are some of {', '.join(known)}, not {self.axes}")
        if self.merge not in get_args(Merge) or not all(is_id(word) for word in words):
            raise ValueError(f"{self.name!r}: a result's names are of a-z 0-9 . _ -")
        folders = (self.name, self.merged)
        if _FOLDERS & set(folders) and folders not in (
            ("scores", "aggregate"),
            ("node_scores", "node_aggregate"),
        ):
            raise ValueError(f"{self.name}: the names {folders} are those of other folders of a run")
        if not self.merged:
            object.__setattr__(self, "merged", f"merged_{self.name}")

    @property
    def of(self) -> str:
        """What its rows are of: edge, node, layer ..."""
        return self.axes[0]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, of which `from_dict` makes an equal type."""
        fields = {**asdict(self), "axes": list(self.axes)}
        return fields if self.bounded else {key: value for key, value in fields.items() if key != "bounded"}

    @staticmethod
    def from_dict(fields: Mapping[str, Any]) -> "ResultType":
        """The type that plain data declares; ValueError for data of any other shape, which a file may hold."""
        try:
            return ResultType(**{**fields, "axes": tuple(fields["axes"])})
        except (KeyError, TypeError) as error:
            raise ValueError(f"no type of result: {error!r}") from None


def declared(method: Mapping[str, Any]) -> ResultType:
    """The type of a method's results by its entry in a manifest; those of earlier versions name a level alone."""
    if "result" in method:
        return ResultType.from_dict(method["result"])
    return EDGE_SCORES if method["level"] == "edge" else NODE_SCORES


EDGE_SCORES = ResultType("scores", ("edge", "span"), merged="aggregate", decides=True)
BOUNDED_EDGE_SCORES = replace(EDGE_SCORES, bounded=True)
NODE_SCORES = ResultType("node_scores", ("node", "span"), merged="node_aggregate")


@dataclass(frozen=True)
class Rows:
    """Values of any type of result. `keys` holds a column for each axis: ids of edges and nodes, other numbers, or
    names (None: all positions). `n_prompts` and `std` (population, over prompts) belong to means; NaN is "not
    measured". `error` is how far off a value is at most, NaN where it is exact."""

    type: ResultType
    keys: Mapping[str, Sequence[Any] | Int[np.ndarray, " row"]]
    value: Float[np.ndarray, " row"]
    std: Float[np.ndarray, " row"] | None = None
    n_prompts: Int[np.ndarray, " row"] | None = None
    kept: Bool[np.ndarray, " row"] | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    error: Float[np.ndarray, " row"] | None = None

    def __post_init__(self) -> None:
        more = (self.std, self.n_prompts, self.kept, self.error)
        columns = [*self.keys.values(), *(column for column in more if column is not None)]
        if tuple(self.keys) != self.type.axes or any(len(column) != len(self.value) for column in columns):
            raise ValueError(f"{self.type.name}: a column of {len(self.value)} for each of {self.type.axes}")
        if (self.type.merge == "moments") != (self.n_prompts is not None):
            raise ValueError(f"{self.type.name}: means have a number of prompts, other values have none")
        bad = ~np.isfinite(self.value) & (
            ~np.isnan(self.value) if self.n_prompts is None else self.n_prompts > 0
        )
        if bad.any():
            raise ScoreError(f"{int(bad.sum())} of {len(bad)} values of {self.type.name} are not finite")

    def __len__(self) -> int:
        return len(self.value)

    def __repr__(self) -> str:
        return f"Rows({self.type.name}: {len(self):,} of {' x '.join(self.type.axes)})"

    def _repr_html_(self) -> str:
        return page(self, self.to_frame())

    @staticmethod
    def measured(
        type_: ResultType, keys: Mapping[str, Any], moments: Moments, facts: Mapping[str, Any] | None = None
    ) -> "Rows":
        """Means over prompts."""
        return Rows(type_, keys, moments.mean, moments.std, moments.n, facts=dict(facts or {}))

    def to_frame(self) -> Any:
        """A pandas frame: a column per axis, the value, and where it is a mean its spread and its prompts."""
        import pandas as pd

        columns: dict[str, Any] = {axis: list(column) for axis, column in self.keys.items()}
        columns[self.type.value] = self.value
        if self.n_prompts is not None:
            columns |= {f"{self.type.value}_std": self.std, "n_prompts": self.n_prompts}
        return pd.DataFrame(columns)


Result: TypeAlias = EdgeScores | NodeScores | Rows


def rows_of(result: Result) -> Rows:
    """Any result in the one shape that is stored."""
    if isinstance(result, EdgeScores):
        n_edges = result.graph.n_edges
        keys: dict[str, Any] = {"edge": np.arange(n_edges), "span": [result.span] * n_edges}
        type_ = EDGE_SCORES if result.error is None else BOUNDED_EDGE_SCORES
        return Rows(
            type_, keys, result.score, result.std, result.n_prompts, result.kept, result.facts, result.error
        )
    if isinstance(result, NodeScores):
        keys = {"node": result.node, "span": result.span}
        return Rows(NODE_SCORES, keys, result.score, result.std, result.n_prompts, facts=result.facts)
    return result
