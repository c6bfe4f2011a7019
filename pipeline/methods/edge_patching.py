"""Exact patching of every single edge (path patching with no node in between).

An edge's score is the exact effect of that edge alone on the behaviour. `noising` ablates the edge in the
clean run (what is necessary), `denoising` restores its clean value in the corrupted run (what is sufficient);
Heimersheim & Nanda 2024, arXiv 2404.15255. EAP-IG's `exact` is `noising`. The path patching of the IOI paper
lets MLPs in between recompute and is another measure.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from pipeline.ablations import Statistics, ablate
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
    require_wide,
    span_of,
    which_have,
)
from pipeline.metrics import get_metric

if TYPE_CHECKING:
    from pipeline.engine.batch import Batch
    from pipeline.engine.patchable import PatchableModel

Direction = Literal["noising", "denoising"]


class EdgePatching(EdgeMethod):
    """The exact effect of each edge alone, a run of a part of the model per edge: estimates are checked against it."""

    name: Literal["edge_patching"] = "edge_patching"
    direction: Direction = Field(
        default="noising", description="ablate in the clean run, or restore in the corrupted"
    )
    positions: Positions = Field(default="all", description=POSITIONS)

    def check(self, metric: str, ablation: str) -> None:
        super().check(metric, ablation)
        check_direction(self.direction, ablation)

    def check_dtype(self, dtype: str) -> None:
        require_wide(self.name, dtype)

    def cost(self, graph: Graph, lengths: Sequence[int]) -> Cost:
        n = len(lengths)
        return Cost(captures(self.ablation) * n, 0, graph.n_edges * n, graph.n_edges)

    def measure(
        self,
        model: "PatchableModel",
        batches: "Sequence[Batch]",
        statistics: Statistics | None,
        *,
        per_prompt: bool,
    ) -> EdgeScores:
        """The exact effect of every edge, its mean and spread over prompts."""
        import torch

        from pipeline.engine.batch import only_having
        from pipeline.engine.paths import Patcher

        row, graph = get_metric(self.metric), model.graph  # type: ignore[arg-type]
        table = PromptTable(graph.n_edges, which_have(batches, self.positions), keep=per_prompt)
        for batch in only_having(batches, self.positions):
            ablated = ablate(model, batch, self.ablation, statistics, direction=self.direction)  # type: ignore[arg-type]
            ablated = ablated.only_at(self.positions)
            patcher = Patcher.of(
                model.parts, graph, ablated, model.objective(row, batch, ablated.clean_hidden)
            )
            base = patcher.base_values()
            scores = torch.empty(batch.n_prompts, graph.n_edges, dtype=torch.float64)
            for receiver, values in patcher.edges():
                scores[:, graph.edges_into(receiver)] = (
                    (values - base) * harm_sign(row.sign, self.direction)
                ).T.cpu()
            table.add(scores.numpy())
            model.counters.evaluations += batch.n_prompts * graph.n_edges
        return EdgeScores.from_moments(
            graph, table.moments, span=span_of(self.positions), per_prompt=table.rows
        )


def check_direction(direction: Direction, ablation: str) -> None:
    """Denoising restores clean values in the corrupted run, so there must be one."""
    if direction == "denoising" and ablation != "corrupted":
        raise ConfigError("denoising restores clean values in the corrupted run: set ablation: corrupted")


def harm_sign(metric_sign: int, direction: Direction) -> int:
    """Positive scores mean that the edge helps: ablating it hurts, restoring it mends."""
    return metric_sign if direction == "noising" else -metric_sign
