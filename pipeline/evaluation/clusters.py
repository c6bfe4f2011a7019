"""One behaviour or several: prompts whose scores are alike, a circuit of each kind, and what it does with the others.

Knows scores of single prompts, which a run keeps with `store: {prompt_scores: true}`; without them, of fewer than eight
prompts, and of methods that decide, everything is null; and so is the number of kinds where there may be one or two.
How kinds are told apart, and when there is one, is `clustering`'s. Where there are several, every kind has a circuit,
of the mean of its own prompts. A circuit is tried on prompts that it was not found on: those of a kind are halved, and
each half judges the circuit of the other.
"""

from dataclasses import dataclass
from math import ceil
from typing import ClassVar, Literal

import numpy as np
from jaxtyping import Float, Int
from pydantic import Field

from pipeline.core.circuit import Circuit
from pipeline.core.graph import Graph
from pipeline.core.prompt_rows import PromptRows
from pipeline.core.selection import select
from pipeline.evaluation.base import Curve, Evaluation, Found, Subject, Values, in_words
from pipeline.evaluation.clustering import Parted, parted
from pipeline.evaluation.ratio import faithfulness_over
from pipeline.evaluation.resamples import weighted

CLUSTER, ALL, PROMPT, ON = "cluster-", "all", "prompt-", " on "
_FEWEST = 4  # prompts of a cluster: two of each half


@dataclass(frozen=True)
class _Kinds:
    """The prompts that were looked at, by their place among all, their scores, and which kind each is of."""

    places: Int[np.ndarray, " row"]
    scores: Float[np.ndarray, "row edge"]
    found: Parted

    @property
    def labels(self) -> Int[np.ndarray, " row"]:
        return self.found.labels

    @property
    def n(self) -> int:
        return self.found.n


class Clusters(Evaluation):
    """Kinds of prompts by their scores; where there are several, the faithfulness of a circuit of each on the prompts
    of each."""

    of_own: ClassVar[bool] = True
    by_rank: ClassVar[bool] = False  # kinds do not; the circuits are by the first rule

    name: Literal["clusters"] = "clusters"
    edge_fraction: float = Field(default=0.05, gt=0, le=1, description="size of the circuits")
    gamma: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="of each prompt the fewest scores that carry this share of their sizes",
    )
    components: int = Field(default=3, ge=1, le=100, description="along which a cut is looked for")
    bar: float = Field(
        default=4.0, ge=0, description="how many standard deviations apart two kinds are at least"
    )
    alpha: float = Field(default=0.01, gt=0, lt=1, description="p of one kind, below which there are two")
    draws: int = Field(default=999, ge=19, le=100_000, description="of one kind, for p")
    most: int = Field(default=20, ge=2, le=1000, description="clusters at most")
    least: float = Field(
        default=0.05, ge=0, lt=0.5, description="share of the prompts that a cluster has at least"
    )
    prompts: int = Field(default=1000, ge=4, le=20_000, description="looked at, at most; drawn by the seed")
    seed: int = Field(default=0, ge=0, lt=2**63)

    def n_circuits(self, graph: Graph, *, decides: bool) -> int:
        """One of each cluster and one of all, each from both halves; none of a method that decides."""
        return 0 if decides else 2 * (self.most + 1)

    def circuits(self, subject: Subject) -> dict[str, Circuit]:
        """The circuits of each cluster and of all, by the half that they are judged by; none of one kind alone."""
        kinds = self._kinds(subject)
        if kinds is None or kinds.n < 2:
            return {}
        graph, labels = subject.scores.graph, kinds.labels
        half, size = _halves(labels), max(1, int(round(self.edge_fraction * graph.n_edges, 9)))
        of = {ALL: np.ones(len(labels), dtype=bool)} | {f"{CLUSTER}{c}": labels == c for c in range(kinds.n)}
        names = [f"{name}/{judge}" for name in of for judge in (0, 1)]
        weights = np.stack([members & (half != judge) for members in of.values() for judge in (0, 1)])
        means = weighted(graph, kinds.scores, weights.astype(np.int64), subject.rank)
        return {
            name: Circuit(graph, select(mean, size, subject.rank))
            for name, mean in zip(names, means, strict=True)
        }

    def find(self, subject: Subject, values: Values | None, curve: Curve) -> list[Found]:
        """clusters, a number, or null where the first cut is neither clear nor none; its separation and p; prompts of
        each; faithfulness with its ends of each circuit on each; the cluster of every prompt that was looked at."""
        kinds = self._kinds(subject)
        if kinds is None:
            return [Found(name, None) for name in ("clusters", "separation", "p")]
        cut = [Found("separation", kinds.found.first.separation), Found("p", kinds.found.first.p)]
        if not kinds.found.decided:
            return [Found("clusters", None), *cut]
        labels, ids = kinds.labels, np.asarray(subject.ids_of_prompts())[kinds.places]
        found = [
            Found("clusters", float(kinds.n)),
            *cut,
            *(Found("prompts", float((labels == c).sum()), f"{CLUSTER}{c}") for c in range(kinds.n)),
        ]
        if kinds.n > 1 and values is not None:
            found += self._across(values, kinds)
        return [
            *found,
            *(
                Found("cluster", float(label), f"{PROMPT}{id_}")
                for id_, label in zip(ids, labels, strict=True)
            ),
        ]

    def _across(self, values: Values, kinds: _Kinds) -> list[Found]:
        labels, half = kinds.labels, _halves(kinds.labels)
        found: list[Found] = []
        for name in (*(f"{CLUSTER}{c}" for c in range(kinds.n)), ALL):
            by_half = [values.circuits[f"{name}/{judge}"][kinds.places] for judge in (0, 1)]
            circuit = np.where(half == 0, *by_half)
            for other in range(kinds.n):
                at, inside = kinds.places[labels == other], labels == other
                ratio = faithfulness_over(values.full[at], values.empty[at], circuit[inside])
                found += in_words("faithfulness", ratio, f"{name}{ON}{CLUSTER}{other}")
        return found

    def _kinds(self, subject: Subject) -> _Kinds | None:
        rows = None if subject.scores.kept is not None else subject.rows_of_prompts()
        if rows is None:
            return None
        rows = PromptRows.of(rows)
        measured = [~np.isnan(piece).all(axis=1) for piece in rows.pieces()]
        places = np.flatnonzero(np.concatenate([np.zeros(0, dtype=bool), *measured]))
        if len(places) > self.prompts:
            drawn = np.random.default_rng(self.seed).choice(places, self.prompts, replace=False)
            places = np.sort(drawn)
        if len(places) < 2 * self._fewest(len(places)):
            return None
        scores = _at(rows, places)
        found = self.parted(scores)
        return None if found is None else _Kinds(places, scores, found)

    def parted(self, scores: Float[np.ndarray, "prompt edge"]) -> Parted | None:
        """Which prompts are of a kind by their scores; None of too few."""
        least = self._fewest(len(scores))
        asked = (self.gamma, self.components, least, self.most, self.bar, self.alpha, self.draws)
        return parted(scores, *asked)

    def _fewest(self, n_prompts: int) -> int:
        """How many of so many prompts a kind has at least."""
        return max(_FEWEST, ceil(self.least * n_prompts))


def _at(rows: PromptRows, places: Int[np.ndarray, " row"]) -> Float[np.ndarray, "row edge"]:
    """The rows at rising places; the others are let go of piece by piece."""
    found, start = [], 0
    for piece in rows.pieces():
        inside = places[(places >= start) & (places < start + len(piece))]
        found.append(np.asarray(piece[inside - start]))
        start += len(piece)
    return np.concatenate(found)


def _halves(labels: Int[np.ndarray, " row"]) -> Int[np.ndarray, " row"]:
    """0 and 1 in turn within each cluster."""
    half = np.zeros(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        half[labels == label] = np.arange(int((labels == label).sum())) % 2
    return half
