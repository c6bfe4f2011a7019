"""EAP with integrated gradients over the input (Hanna et al. 2024, arXiv 2403.17806; "EAP-IG inputs").

    score = sign * sum over positions of (ablated - clean output of the sender) . mean over k of the gradient at
            ablated input + alpha_k (clean input - ablated input)

Only what enters block 0 is interpolated, all else is recomputed on the clean tokens; the difference keeps its
end-point value. `rule` places the points: `left` alpha = k/m for k = 0..m-1 (the authors' current code: with
the corrupted end, without the clean one), `right` k = 1..m (the paper and the original code), `midpoint` (k +
1/2)/m, whose error shrinks fastest. Under zero and mean ablation the path starts at the ablated input.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from pipeline.ablations import Statistics, ablated_values
from pipeline.core.errors import ConfigError
from pipeline.core.graph import Graph
from pipeline.core.scores import EdgeScores
from pipeline.methods.base import POSITIONS, Cost, EdgeMethod, Positions, captures, require_gradient
from pipeline.methods.eap import attribute
from pipeline.metrics import get_metric

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.engine.batch import Batch
    from pipeline.engine.patchable import PatchableModel


class EapIg(EdgeMethod):
    """As eap, with the gradient averaged at `steps` points between ablated and clean input: closer, `steps` times the
    work."""

    name: Literal["eap_ig"] = "eap_ig"
    steps: int = Field(default=5, ge=1, le=10_000, description="points on the path")
    rule: Literal["left", "right", "midpoint"] = Field(default="left", description="where the points lie")
    positions: Positions = Field(default="all", description=POSITIONS)

    @property
    def alphas(self) -> tuple[float, ...]:
        """The points, 0 at the ablated input and 1 at the clean one."""
        shift = {"left": 0.0, "right": 1.0, "midpoint": 0.5}[self.rule]
        return tuple((k + shift) / self.steps for k in range(self.steps))

    def check(self, metric: str, ablation: str) -> None:
        super().check(metric, ablation)
        require_gradient(self.name, metric)
        if get_metric(metric).needs_reference and self.alphas == (1.0,):
            raise ConfigError(
                f"eap_ig at the clean point alone gives zero for {metric}: take more steps or rule: left"
            )

    def cost(self, graph: Graph, lengths: Sequence[int]) -> Cost:
        n = len(lengths)
        return Cost((captures(self.ablation) + self.steps) * n, self.steps * n, 0, graph.n_edges)

    def measure(
        self,
        model: "PatchableModel",
        batches: "Sequence[Batch]",
        statistics: Statistics | None,
        *,
        per_prompt: bool,
    ) -> EdgeScores:
        """Integrated first-order effects of all edges, their mean and spread over prompts."""
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

        corrupted = model.senders(batch, "corrupted")[0] if self.ablation == "corrupted" else None
        clean, hidden = model.senders(batch, "clean")
        objective = model.objective(get_metric(self.metric), batch, hidden)  # type: ignore[arg-type]  # resolved
        ablated = ablated_values(self.ablation, clean, corrupted, statistics, batch)  # type: ignore[arg-type]
        path = clean.input - ablated.input
        steps = [gradients(model, batch, objective, ablated.input + alpha * path)[0] for alpha in self.alphas]
        deltas = ablated.minus(clean, batch.real)
        if (at := batch.at(self.positions)) is not None:
            deltas = deltas.only_at(at)
        for scores in edge_scores(model.parts, model.graph, deltas, clean, steps):
            yield scores * objective.sign
