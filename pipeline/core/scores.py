"""Scores per edge or per node over a set of prompts, and how scores of disjoint sets of prompts merge.

Knows statistics over prompts. Does not know how a score was computed, nor files.

A score is *how much worse the behaviour gets when the edge is ablated, averaged over prompts*: positive means
that the edge helps. NaN means "not measured" and is null in every frame and file.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int

from pipeline.core.errors import CircuitsError, ScoreError
from pipeline.core.graph import Graph
from pipeline.core.showing import SHOWN, page

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class Moments:
    """Count, mean and population standard deviation over prompts, entry by entry, in float64.

    `error` is how far off a mean is at most, NaN where it is exact; None where every mean is.
    """

    n: Int[np.ndarray, " entry"]
    mean: Float[np.ndarray, " entry"]
    std: Float[np.ndarray, " entry"]
    error: Float[np.ndarray, " entry"] | None = None

    def __repr__(self) -> str:
        return f"Moments({_sizes(self.n, self.mean, 'entries')})"

    @staticmethod
    def of(values: Float[np.ndarray, "prompt entry"]) -> "Moments":
        """Moments of a prompt-by-entry table without missing values."""
        values = np.asarray(values, dtype=np.float64)
        n = np.full(values.shape[1], values.shape[0], dtype=np.int64)
        return Moments(n, values.mean(axis=0), values.std(axis=0))

    @staticmethod
    def nothing() -> "Moments":
        """Of no entries."""
        return Moments(np.zeros(0, dtype=np.int64), np.zeros(0), np.zeros(0))

    @staticmethod
    def merge(parts: "Sequence[Moments]") -> "Moments":
        """Moments of the union of disjoint sets of prompts (Chan et al. 1979), in the order given.

        What bounds the errors of means bounds, weighted as they are, the error of the mean over all.
        """
        n = np.zeros_like(parts[0].n, dtype=np.int64)
        mean = np.zeros(len(n))
        squares = np.zeros(len(n))
        bounded = [part for part in parts if part.error is not None]
        error = np.zeros(len(n))
        for part in parts:
            measured = part.n > 0
            part_mean = np.where(measured, part.mean, 0.0)
            part_squares = np.where(measured, part.n * np.square(part.std), 0.0)
            total = n + part.n
            weight = np.divide(part.n, total, out=np.zeros(len(n)), where=total > 0)
            delta = part_mean - mean
            mean = mean + np.where(measured, delta * weight, 0.0)
            squares = squares + part_squares + np.where(measured, np.square(delta) * n * weight, 0.0)
            if bounded:
                part_error = np.zeros(len(n)) if part.error is None else np.nan_to_num(part.error)
                error = error + (part_error - error) * weight
            n = total
        std = np.sqrt(np.divide(squares, n, out=np.full(len(n), np.nan), where=n > 0))
        errors = np.where(error > 0, error, np.nan) if bounded else None
        return Moments(n, np.where(n > 0, mean, np.nan), std, errors)


@dataclass(frozen=True)
class EdgeScores:
    """A score per edge of `graph`, with its spread over prompts.

    `score` and `std` (population, over prompts) are float64 with NaN where nothing was measured, `n_prompts`
    says over how many prompts, `kept` is the decision of a method that decides. `per_prompt` holds the single
    prompts' scores when they were asked for. `facts` is what the method wants recorded (counters, settings).
    `span` names the positions that all scores are of; None is every position. `error` says how far off a score is at
    most, NaN where it is exact; None where no score is bounded.
    """

    graph: Graph
    score: Float[np.ndarray, " edge"]
    std: Float[np.ndarray, " edge"]
    n_prompts: Int[np.ndarray, " edge"]
    kept: Bool[np.ndarray, " edge"] | None = None
    per_prompt: Float[np.ndarray, "prompt edge"] | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    span: str | None = None
    error: Float[np.ndarray, " edge"] | None = None

    def __post_init__(self) -> None:
        if not len(self.score) == len(self.std) == len(self.n_prompts) == self.graph.n_edges:
            raise ValueError(f"scores of length {len(self.score)} for {self.graph.n_edges} edges")
        if bad := int((~np.isfinite(self.score) & (self.n_prompts > 0)).sum()):
            raise ScoreError(f"{bad} of {len(self.score)} edge scores are not finite")

    def __repr__(self) -> str:
        return f"EdgeScores({_sizes(self.n_prompts, self.score, 'edges')}{self._more})"

    def _repr_html_(self) -> str:
        frame = self.to_frame()
        return page(self, frame.iloc[rank_order(self.score)[:SHOWN]].dropna(axis=1, how="all"))

    @property
    def _more(self) -> str:
        """What there is beside scores, in words."""
        kept = "" if self.kept is None else f", {int(self.kept.sum()):,} kept"
        rows = "" if self.per_prompt is None else ", with every prompt's"
        return (f", at {self.span}" if self.span else "") + kept + rows

    @staticmethod
    def from_moments(graph: Graph, moments: Moments, **fields: Any) -> "EdgeScores":
        return EdgeScores(graph, moments.mean, moments.std, moments.n, error=moments.error, **fields)

    @property
    def moments(self) -> Moments:
        return Moments(self.n_prompts, self.score, self.std, self.error)

    @staticmethod
    def merge(parts: "Sequence[EdgeScores]") -> "EdgeScores":
        """Scores over the union of disjoint sets of prompts; `kept` by majority, a tie keeps."""
        if not parts:
            raise ValueError("nothing to merge")
        graph = parts[0].graph
        if any(part.graph != graph for part in parts):
            raise CircuitsError("scores of different graphs cannot be merged")
        if len({part.span for part in parts}) > 1:
            raise CircuitsError("scores of different positions cannot be merged")
        decisions = [part.kept for part in parts if part.kept is not None]
        kept = np.mean(decisions, axis=0) >= 0.5 if len(decisions) == len(parts) else None
        rows = [part.per_prompt for part in parts if part.per_prompt is not None]
        per_prompt = np.concatenate(rows) if len(rows) == len(parts) else None
        merged = Moments.merge([part.moments for part in parts])
        return EdgeScores.from_moments(graph, merged, kept=kept, per_prompt=per_prompt, span=parts[0].span)

    def to_frame(self) -> "DataFrame":
        """A row per edge: edge_id sender receiver score score_std n_prompts kept; score_error where bounded."""
        import pandas as pd

        senders = [node.name for node in self.graph.senders]
        receivers = [node.name for node in self.graph.receivers]
        kept: Any = pd.array([None] * len(self.score), dtype="boolean")
        if self.kept is not None:
            kept = pd.array(self.kept, dtype="boolean")
        error = {} if self.error is None else {"score_error": self.error}
        return pd.DataFrame(
            {
                "edge_id": np.arange(self.graph.n_edges, dtype=np.int32),
                "sender": pd.Categorical.from_codes(self.graph.edge_senders, categories=senders),
                "receiver": pd.Categorical.from_codes(self.graph.edge_receivers, categories=receivers),
                "score": self.score,
                "score_std": self.std,
                "n_prompts": self.n_prompts.astype(np.int32),
                "kept": kept,
                **error,
            }
        )


@dataclass(frozen=True)
class NodeScores:
    """A score per node and span of positions. `node` indexes `graph.senders`; span None is all positions."""

    graph: Graph
    node: Int[np.ndarray, " row"]
    span: tuple[str | None, ...]
    score: Float[np.ndarray, " row"]
    std: Float[np.ndarray, " row"]
    n_prompts: Int[np.ndarray, " row"]
    facts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not len(self.node) == len(self.span) == len(self.score) == len(self.std) == len(self.n_prompts):
            raise ValueError("columns of different lengths")
        if not np.isfinite(self.score).all():
            raise ScoreError(f"{int((~np.isfinite(self.score)).sum())} node scores are not finite")

    def __repr__(self) -> str:
        return f"NodeScores({_sizes(self.n_prompts, self.score, 'rows')})"

    def _repr_html_(self) -> str:
        frame = self.to_frame()
        return page(self, frame.iloc[rank_order(self.score)[:SHOWN]].dropna(axis=1, how="all"))

    @staticmethod
    def empty(graph: Graph) -> "NodeScores":
        """No rows: nothing was measured."""
        none, numbers = np.zeros(0, dtype=np.int64), np.zeros(0)
        return NodeScores(graph, none, (), numbers, numbers, none)

    @property
    def moments(self) -> Moments:
        return Moments(self.n_prompts, self.score, self.std)

    def to_frame(self) -> "DataFrame":
        """A row per node and span: node_id node span score score_std n_prompts."""
        import pandas as pd

        names = [node.name for node in self.graph.senders]
        return pd.DataFrame(
            {
                "node_id": self.node.astype(np.int32),
                "node": pd.Categorical.from_codes(self.node, categories=names),
                "span": pd.array(list(self.span), dtype="string"),
                "score": self.score,
                "score_std": self.std,
                "n_prompts": self.n_prompts.astype(np.int32),
            }
        )


def _sizes(n_prompts: Int[np.ndarray, " row"], score: Float[np.ndarray, " row"], what: str) -> str:
    """How many rows of how many prompts, and how many of them were measured."""
    measured = int((~np.isnan(score)).sum())
    of = "" if measured == len(score) else f" of {len(score):,}"
    return f"{measured:,}{of} {what}, {int(n_prompts.max(initial=0)):,} prompts"


def rank_order(score: Float[np.ndarray, " edge"], rank: str = "absolute") -> Int[np.ndarray, " edge"]:
    """Edge ids from the highest rank to the lowest: by |score|, or by score when `rank` is signed.

    Unmeasured edges come last; ties go to the lower edge id, so that a ranking is reproducible.
    """
    if rank not in ("absolute", "signed"):
        raise ValueError(f"rank is absolute or signed, not {rank!r}")
    key = np.abs(score) if rank == "absolute" else score
    return np.argsort(-np.where(np.isnan(key), -np.inf, key), kind="stable")
