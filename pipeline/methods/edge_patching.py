"""Exact patching of every single edge (path patching with no node in between).

An edge's score is the exact effect of that edge alone on the behaviour. `noising` ablates the edge in the
clean run (what is necessary), `denoising` restores its clean value in the corrupted run (what is sufficient);
Heimersheim & Nanda 2024, arXiv 2404.15255. EAP-IG's `exact` is `noising`. The path patching of the IOI paper
lets MLPs in between recompute and is another measure.
"""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from pipeline.ablations import get_ablation
from pipeline.core.errors import ConfigError
from pipeline.core.graph import Graph
from pipeline.core.naming import receivers_named
from pipeline.core.scores import EdgeScores
from pipeline.methods.base import POSITIONS, Cost, EdgeMethod, Needs, Positions, Several, captures, span_of
from pipeline.methods.work import PromptTable, Work, which_have

Direction = Literal["noising", "denoising"]

# It subtracts two metrics that hardly differ.
EXACT = Needs(wide="measures rounding; set model.dtype: float32, or use eap or eap_ig")


class EdgePatching(EdgeMethod):
    """The exact effect of each edge alone, a run of a part of the model per edge: estimates are checked against it."""

    needs: ClassVar[Needs] = EXACT

    name: Literal["edge_patching"] = "edge_patching"
    direction: Direction = Field(
        default="noising", description="ablate in the clean run, or restore in the corrupted"
    )
    positions: Positions = Field(default="all", description=POSITIONS)
    receivers: Annotated[tuple[str, ...] | None, Several] = Field(
        default=None,
        min_length=1,
        max_length=100_000,
        description="whose edges are measured: logits, a9.h6<q>, a9.h6, m3, a9.* ...; default: everyone's",
    )

    later: ClassVar = frozenset({"receivers"})

    def check(self, dtype: str) -> None:
        super().check(dtype)
        check_direction(self.direction, str(self.ablation))

    def check_names(self, graph: Graph) -> None:
        self._receivers(graph)

    def cost(self, graph: Graph, lengths: Sequence[int]) -> Cost:
        n, measured = len(lengths), graph.n_edges
        if self.receivers is not None:
            measured = int(graph.senders_read[list(self._receivers(graph))].sum())
        return Cost(captures(self.ablation) * n, 0, measured * n, graph.n_edges)

    def _receivers(self, graph: Graph) -> Sequence[int]:
        """Indices of the receivers whose edges are measured; ConfigError for a name that the graph does not have."""
        everyone = range(graph.n_receivers)
        return everyone if self.receivers is None else receivers_named(graph, self.receivers)

    def run(self, work: Work) -> EdgeScores:
        """The exact effect of every edge into the receivers, its mean and spread over prompts; edges into others are
        not measured."""
        import torch

        from pipeline.engine.paths import Patcher

        model, graph = work.model, work.model.graph
        sign, receivers = harm_sign(work.sign, self.direction), self._receivers(graph)
        edges = np.concatenate([np.arange(graph.n_edges)[graph.edges_into(one)] for one in receivers])
        there = which_have(work.batches, self.positions)
        table = PromptTable(graph.n_edges, there, keep=work.per_prompt, only=edges)
        for batch in work.having(self.positions).batches:
            ablated = work.ablated(batch, self.direction).only_at(self.positions)
            objective = work.objective(batch, ablated.clean_hidden)
            patcher = Patcher.of(model.parts, graph, ablated, objective)
            base = patcher.base_values()
            scores = [((values - base) * sign).T.cpu() for _, values in patcher.edges(receivers)]
            table.add(torch.cat(scores, dim=1).double().numpy())
            model.counters.evaluations += batch.n_prompts * len(edges)
        return EdgeScores.from_moments(
            graph, table.moments, span=span_of(self.positions), per_prompt=table.rows
        )


def check_direction(direction: Direction, ablation: str) -> None:
    """Denoising restores clean values in the corrupted run, so there must be one."""
    if direction == "denoising" and not get_ablation(ablation).needs_corrupted:
        raise ConfigError("denoising restores clean values in the corrupted run: set ablation: corrupted")


def harm_sign(metric_sign: int, direction: Direction) -> int:
    """Positive scores mean that the edge helps: ablating it hurts, restoring it mends."""
    return metric_sign if direction == "noising" else -metric_sign
