"""Edge attribution patching (Syed et al. 2023, arXiv 2310.10348): a first-order estimate of every edge's effect.

    score = sign * sum over positions of (ablated - clean output of the sender) . d metric / d input of the receiver

with sign -1 where higher is better, else 1, at the clean prompt, per prompt, then averaged: real effects,
independent of batch sizes (the authors' code divides a batch mean by the number of prompts once more). Two
forwards and one backward.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from pipeline.ablations import Statistics, ablated_values
from pipeline.core.errors import ConfigError
from pipeline.core.graph import Graph
from pipeline.core.scores import EdgeScores
from pipeline.methods.base import (
    POSITIONS,
    Cost,
    EdgeMethod,
    Positions,
    PromptTable,
    captures,
    require_gradient,
    span_of,
    which_have,
)
from pipeline.metrics import get_metric

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.engine.batch import Batch
    from pipeline.engine.patchable import PatchableModel


class Eap(EdgeMethod):
    """Edge attribution patching: what a sender changes by, times the gradient of its reader at the clean prompt; a
    first-order estimate."""

    name: Literal["eap"] = "eap"
    positions: Positions = Field(default="all", description=POSITIONS)

    def check(self, metric: str, ablation: str) -> None:
        super().check(metric, ablation)
        require_gradient(self.name, metric)
        if get_metric(metric).needs_reference:
            raise ConfigError(
                f"eap with {metric} is zero for every edge: its gradient vanishes at the clean prompt; use logit_diff, "
                "or eap_ig"
            )

    def cost(self, graph: Graph, lengths: Sequence[int]) -> Cost:
        n = len(lengths)
        return Cost(captures(self.ablation) * n, n, 0, graph.n_edges)

    def measure(
        self,
        model: "PatchableModel",
        batches: "Sequence[Batch]",
        statistics: Statistics | None,
        *,
        per_prompt: bool,
    ) -> EdgeScores:
        """First-order effects of all edges, their mean and spread over prompts."""
        return attribute(
            model,
            batches,
            lambda batch: self._prompt_scores(model, batch, statistics),
            positions=self.positions,
            per_prompt=per_prompt,
        )

    def _prompt_scores(
        self, model: "PatchableModel", batch: "Batch", statistics: Statistics | None
    ) -> "Iterator[Tensor]":
        from pipeline.engine.attribution import edge_scores, gradients

        objective = model.objective(get_metric(self.metric), batch)  # type: ignore[arg-type]  # resolved
        corrupted = model.senders(batch, "corrupted")[0] if self.ablation == "corrupted" else None
        at_clean, clean = gradients(model, batch, objective)
        ablated = ablated_values(self.ablation, clean, corrupted, statistics, batch)  # type: ignore[arg-type]
        deltas = ablated.minus(clean, batch.real)
        if (at := batch.at(self.positions)) is not None:
            deltas = deltas.only_at(at)
        for scores in edge_scores(model.parts, model.graph, deltas, clean, [at_clean]):
            yield scores * objective.sign


def attribute(
    model: "PatchableModel",
    batches: "Sequence[Batch]",
    prompt_scores: "Callable[[Batch], Iterator[Tensor]]",
    *,
    positions: str,
    per_prompt: bool,
) -> EdgeScores:
    """Scores from a function that yields chunks of [prompt, edge] for a batch of prompts that have `positions`."""
    from pipeline.engine.batch import only_having

    table = PromptTable(model.graph.n_edges, which_have(batches, positions), keep=per_prompt)
    for batch in only_having(batches, positions):
        for scores in prompt_scores(batch):
            table.add(scores.double().cpu().numpy())
    return EdgeScores.from_moments(model.graph, table.moments, span=span_of(positions), per_prompt=table.rows)
