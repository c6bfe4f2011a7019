"""Activation patching of every node: its whole output is exchanged and everything downstream recomputed.

By node, by node at the answer or a named span, or by node and position. Noising and denoising as for edges
(arXiv 2404.15255). Positions count from the start of the prompt ("0", "1", ...) or from the position of the
answer backwards ("-1" is that position), padding left out; a position or span that only some prompts have is
averaged over those.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field

from pipeline.core.graph import Graph
from pipeline.core.scores import Moments, NodeScores
from pipeline.methods.base import Cost, Needs, NodeMethod, NodePositions, captures, span_of
from pipeline.methods.edge_patching import EXACT, Direction, check_direction, harm_sign
from pipeline.methods.work import Work

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.engine.batch import Batch


class NodePatching(NodeMethod):
    """Activation patching: the exact effect of each node's output, at all positions together or one by one."""

    needs: ClassVar[Needs] = EXACT

    name: Literal["node_patching"] = "node_patching"
    direction: Direction = Field(
        default="noising", description="ablate in the clean run, or restore in the corrupted"
    )
    positions: NodePositions = Field(
        default="all",
        description="all at once, last (the answer), a span that prompts name, or one by one: from_start, "
        "from_end (back from the answer)",
    )

    @property
    def one_by_one(self) -> bool:
        """Whether positions are patched one by one."""
        return self.positions in ("from_start", "from_end")

    def check(self, dtype: str) -> None:
        super().check(dtype)
        check_direction(self.direction, str(self.ablation))

    def cost(self, graph: Graph, lengths: Sequence[int]) -> Cost:
        n = len(lengths)
        patched = sum(lengths) if self.one_by_one else n
        spans = max(lengths, default=0) if self.one_by_one else 1
        rows = graph.n_senders * spans
        return Cost(captures(self.ablation) * n, 0, graph.n_senders * patched, rows)

    def run(self, work: Work) -> NodeScores:
        """A row per node, or per node and position that at least one prompt has."""
        from pipeline.engine.paths import Patcher

        model, graph = work.model, work.model.graph
        batches = work.batches if self.one_by_one else work.having(self.positions).batches
        n_spans = max((int(b.position_ids.max()) + 1 for b in batches), default=0) if self.one_by_one else 1
        parts: list[Moments] = []
        for batch in batches:
            ablated = work.ablated(batch, self.direction)
            if not self.one_by_one:
                ablated = ablated.only_at(self.positions)
            objective = work.objective(batch, ablated.clean_hidden)
            patcher = Patcher.of(model.parts, graph, ablated, objective)
            positions = self._positions(batch, n_spans)
            base, sign = patcher.base_values(), harm_sign(work.sign, self.direction)
            scores = [((values - base) * sign).cpu().numpy() for _, values in patcher.nodes(positions)]
            exists = (
                np.ones((n_spans, batch.n_prompts), dtype=bool)
                if positions is None
                else (positions >= 0).cpu().numpy()
            )
            parts.append(_masked_moments(np.stack(scores), exists))
            model.counters.evaluations += graph.n_senders * int(exists.sum())
        if not parts:
            return NodeScores.empty(graph)
        moments = Moments.merge(parts)
        measured = moments.n > 0
        span = self._spans(n_spans)
        node = np.repeat(np.arange(graph.n_senders), n_spans)[measured]
        names = tuple(name for name, there in zip(span * graph.n_senders, measured, strict=True) if there)
        return NodeScores(
            graph, node, names, moments.mean[measured], moments.std[measured], moments.n[measured]
        )

    def _spans(self, n_spans: int) -> list[str | None]:
        if not self.one_by_one:
            return [span_of(self.positions)]
        return [str(i) if self.positions == "from_start" else str(-1 - i) for i in range(n_spans)]

    def _positions(self, batch: "Batch", n_spans: int) -> "Tensor | None":
        """[span, prompt]: the position of the text that each span means in each prompt, -1 where there is none. Where
        answers go on in several ways, it is that position of each."""
        import torch

        if not self.one_by_one:
            return None
        last = batch.position_ids.amax(1)
        steps = torch.arange(n_spans, device=last.device)[:, None]
        if self.positions == "from_start":
            return torch.where(steps <= last, steps, -1)
        return (batch.last_read - steps).clamp(min=-1)


def _masked_moments(scores: np.ndarray, exists: np.ndarray) -> Moments:
    """Moments over the prompts that have a span. scores [node, span, prompt], exists [span, prompt]."""
    n = np.broadcast_to(exists.sum(-1), scores.shape[:2])
    safe = np.maximum(n, 1)
    mean = np.where(exists, scores, 0.0).sum(-1) / safe
    squares = np.where(exists, np.square(scores - mean[..., None]), 0.0).sum(-1) / safe
    return Moments(n.reshape(-1).astype(np.int64), mean.reshape(-1), np.sqrt(squares).reshape(-1))
