"""Edge attribution patching (Syed et al. 2023, arXiv 2310.10348): a first-order estimate of every edge's effect.

    score = sign * sum over positions of (ablated - clean output of the sender) . d metric / d input of the receiver

with sign -1 where higher is better, else 1, at the clean prompt, per prompt, then averaged: real effects,
independent of batch sizes (the authors' code divides a batch mean by the number of prompts once more). Two
forwards and one backward.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from pipeline.ablations import ablated_values
from pipeline.core.errors import ConfigError
from pipeline.core.graph import Graph
from pipeline.core.scores import EdgeScores
from pipeline.methods.base import POSITIONS, Cost, EdgeMethod, Needs, Positions, captures, span_of
from pipeline.methods.work import PromptTable, Work, in_chunks, which_have
from pipeline.metrics import get_metric

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.engine.batch import Batch


class Eap(EdgeMethod):
    """Edge attribution patching: what a sender changes by, times the gradient of its reader at the clean prompt; a
    first-order estimate."""

    needs: ClassVar[Needs] = Needs(gradient=True)

    name: Literal["eap"] = "eap"
    positions: Positions = Field(default="all", description=POSITIONS)

    def check(self, dtype: str) -> None:
        super().check(dtype)
        if get_metric(str(self.metric)).needs_reference:
            raise ConfigError(
                f"eap with {self.metric} is zero for every edge: its gradient vanishes at the clean prompt; use "
                "logit_diff, or eap_ig"
            )

    def cost(self, graph: Graph, lengths: Sequence[int]) -> Cost:
        n = len(lengths)
        return Cost(captures(self.ablation) * n, n, 0, graph.n_edges)

    def run(self, work: Work) -> EdgeScores:
        """First-order effects of all edges, their mean and spread over prompts."""
        return attribute(work, self.positions, self._prompt_scores)

    def _prompt_scores(self, work: Work, batch: "Batch") -> "Iterator[Tensor]":
        from pipeline.engine.attribution import edge_scores, gradients

        model = work.model
        corrupted, batch, prefix = work.corrupted(batch)
        objective = work.objective(batch)
        at_clean, clean = gradients(model, batch, objective, prefix=prefix)
        ablated = ablated_values(str(work.ablation), clean, corrupted, work.statistics, batch)
        deltas = ablated.minus(clean, batch.real)
        if (at := batch.at(self.positions)) is not None:
            deltas = deltas.only_at(at)
        for scores in edge_scores(model.parts, model.graph, deltas, clean, [at_clean]):
            yield scores * objective.sign


def attribute(
    work: Work, positions: str, prompt_scores: "Callable[[Work, Batch], Iterator[Tensor]]"
) -> EdgeScores:
    """Scores from a function that yields chunks of [prompt, edge] for a batch of prompts that have `positions`."""
    graph = work.model.graph
    table = PromptTable(graph.n_edges, which_have(work.batches, positions), keep=work.per_prompt)
    for batch in work.having(positions).batches:
        for scores in in_chunks(prompt_scores(work, batch)):
            table.add(scores)
    return EdgeScores.from_moments(graph, table.moments, span=span_of(positions), per_prompt=table.rows)
