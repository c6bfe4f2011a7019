"""Path patching from every sender to a set of receivers (Wang et al. 2022, arXiv 2211.00593; Goldowsky-Dill et al.
2023, arXiv 2304.05969).

Which senders matter to these receivers? `reading: edge` patches the direct edges to all of them together;
`reading: ioi` is the paper's: the sender's change also passes through MLPs and norms in between, heads are
frozen, and the receivers are set to what they then read. In both, everything downstream is recomputed. One
receiver in the `edge` reading is one edge of `edge_patching`.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from pipeline.core.graph import Graph
from pipeline.core.naming import receivers_named
from pipeline.core.scores import Moments, NodeScores
from pipeline.methods.base import POSITIONS, Cost, Names, Needs, NodeMethod, Positions, captures, span_of
from pipeline.methods.edge_patching import EXACT, Direction, check_direction, harm_sign
from pipeline.methods.work import Work


class PathPatching(NodeMethod):
    """The exact effect of each sender through its paths to chosen receivers: a score per sender."""

    needs: ClassVar[Needs] = EXACT

    name: Literal["path_patching"] = "path_patching"
    receivers: Names = Field(
        default=("logits",),
        min_length=1,
        description="who reads the patched value: logits, a9.h6<q>, a9.h6, m3, a9.* ...",
    )
    reading: Literal["edge", "ioi"] = Field(
        default="edge", description="nothing in between, or MLPs recomputed and heads frozen (the IOI paper)"
    )
    direction: Direction = Field(
        default="noising", description="ablate in the clean run, or restore in the corrupted"
    )
    positions: Positions = Field(default="all", description=POSITIONS)

    def check(self, dtype: str) -> None:
        super().check(dtype)
        check_direction(self.direction, str(self.ablation))

    def _receivers(self, graph: Graph) -> tuple[int, ...]:
        """Indices of the named receivers; ConfigError for a name that the graph does not have."""
        return receivers_named(graph, self.receivers)

    def _n_senders(self, graph: Graph) -> int:
        """Senders that one of the receivers reads; they are always the first ones."""
        return max(int(graph.senders_read[receiver]) for receiver in self._receivers(graph))

    def check_names(self, graph: Graph) -> None:
        self._receivers(graph)

    def cost(self, graph: Graph, lengths: Sequence[int]) -> Cost:
        n, rows = len(lengths), self._n_senders(graph)
        return Cost(captures(self.ablation) * n, 0, rows * n, rows)

    def run(self, work: Work) -> NodeScores:
        """A row per sender that one of the receivers reads: mean and spread over prompts."""
        from pipeline.engine.path_sets import path_values
        from pipeline.engine.paths import Patcher

        model, graph = work.model, work.model.graph
        receivers, senders = self._receivers(graph), range(self._n_senders(graph))
        parts = []
        for batch in work.having(self.positions).batches:
            ablated = work.ablated(batch, self.direction).only_at(self.positions)
            objective = work.objective(batch, ablated.clean_hidden)
            patcher = Patcher.of(model.parts, graph, ablated, objective)
            values = path_values(patcher, senders, receivers, self.reading)
            scores = (values - patcher.base_values()) * harm_sign(work.sign, self.direction)
            parts.append(Moments.of(scores.T.cpu().numpy()))
            model.counters.evaluations += len(senders) * batch.n_prompts
        if not parts:
            return NodeScores.empty(graph)
        moments = Moments.merge(parts)
        names = (span_of(self.positions),) * len(senders)
        return NodeScores(graph, np.asarray(senders), names, moments.mean, moments.std, moments.n)
