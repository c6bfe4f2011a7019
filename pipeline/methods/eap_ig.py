"""EAP with integrated gradients over the input (Hanna et al. 2024, arXiv 2403.17806; "EAP-IG inputs").

    score = sign * sum over positions of (ablated - clean output of the sender) . mean over k of the gradient at
            ablated input + alpha_k (clean input - ablated input)

Only what enters block 0 is interpolated, all else is recomputed on the clean tokens; the difference keeps its
end-point value. `rule` places the points: `left` alpha = k/m for k = 0..m-1 (the authors' current code: with
the corrupted end, without the clean one), `right` k = 1..m (the paper and the original code), `midpoint` (k +
1/2)/m, whose error shrinks fastest. Under zero and mean ablation the path starts at the ablated input.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from pipeline.ablations import ablated_values
from pipeline.core.errors import ConfigError
from pipeline.core.graph import Graph
from pipeline.core.scores import EdgeScores
from pipeline.methods.base import POSITIONS, Cost, EdgeMethod, Needs, Positions, captures
from pipeline.methods.eap import attribute
from pipeline.methods.work import Work
from pipeline.metrics import get_metric

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.engine.batch import Batch


class EapIg(EdgeMethod):
    """As eap, with the gradient averaged at `steps` points between ablated and clean input: closer, `steps` times the
    work."""

    needs: ClassVar[Needs] = Needs(gradient=True)

    name: Literal["eap_ig"] = "eap_ig"
    steps: int = Field(default=5, ge=1, le=10_000, description="points on the path")
    rule: Literal["left", "right", "midpoint"] = Field(default="left", description="where the points lie")
    positions: Positions = Field(default="all", description=POSITIONS)

    @property
    def alphas(self) -> tuple[float, ...]:
        """The points, 0 at the ablated input and 1 at the clean one."""
        shift = {"left": 0.0, "right": 1.0, "midpoint": 0.5}[self.rule]
        return tuple((k + shift) / self.steps for k in range(self.steps))

    def check(self, dtype: str) -> None:
        super().check(dtype)
        if get_metric(str(self.metric)).needs_reference and self.alphas == (1.0,):
            raise ConfigError(
                f"eap_ig at the clean point alone gives zero for {self.metric}: take more steps or rule: left"
            )

    def cost(self, graph: Graph, lengths: Sequence[int]) -> Cost:
        n = len(lengths)
        return Cost((captures(self.ablation) + self.steps) * n, self.steps * n, 0, graph.n_edges)

    def run(self, work: Work) -> EdgeScores:
        """Integrated first-order effects of all edges, their mean and spread over prompts."""
        return attribute(work, self.positions, self._prompt_scores)

    def _prompt_scores(self, work: Work, batch: "Batch") -> "Iterator[Tensor]":
        from pipeline.engine.attribution import edge_scores, gradients

        model = work.model
        corrupted, batch, prefix = work.corrupted(batch)
        clean, hidden = model.senders(batch, "clean", prefix)
        objective = work.objective(batch, hidden)
        ablated = ablated_values(str(work.ablation), clean, corrupted, work.statistics, batch)
        path = clean.input - ablated.input
        points = [ablated.input + alpha * path for alpha in self.alphas]
        steps = [gradients(model, batch, objective, point, prefix=prefix)[0] for point in points]
        deltas = ablated.minus(clean, batch.real)
        if (at := batch.at(self.positions)) is not None:
            deltas = deltas.only_at(at)
        for scores in edge_scores(model.parts, model.graph, deltas, clean, steps):
            yield scores * objective.sign
