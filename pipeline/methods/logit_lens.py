"""The logit lens (nostalgebraist 2020; Belrose et al. 2023, arXiv 2303.08112, section 2): the metric of what each layer
already says at each position.

    reading(layer, position) = metric(unembedding(final norm(residual stream that enters the layer)))

by layer, from 0 (what the embeddings say) to the number of layers (what the model says), and by position, counted
back from the answer ("-1" is the answer's) or at a span. A reading is the metric itself and no harm: at the answer's
position of the last layer it is the clean run's.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field

from pipeline.core.errors import ConfigError, PromptError
from pipeline.core.graph import Graph
from pipeline.core.results import ResultType, Rows
from pipeline.core.scores import Moments
from pipeline.methods.base import Cost, Method, Needs, NodePositions
from pipeline.methods.work import Work

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.engine.batch import Batch

READINGS = ResultType("readings", ("layer", "span"), value="reading")


class LogitLens(Method):
    """What each layer already says: the metric of the residual stream, read through the final norm and the
    unembedding."""

    result: ClassVar[ResultType] = READINGS
    needs: ClassVar[Needs] = Needs(ablation=False)
    reads_sequences: ClassVar[bool] = False

    name: Literal["logit_lens"] = "logit_lens"
    positions: NodePositions = Field(
        default="from_end",
        description="from_end (one by one, back from the answer), last (the answer), or a span that prompts name, "
        "where its last token is read",
    )

    def check(self, dtype: str) -> None:
        super().check(dtype)
        if self.positions in ("all", "from_start"):
            raise ConfigError(
                f"logit_lens reads one position at a time: {self.positions} is none; use from_end or last"
            )

    def cost(self, graph: Graph, lengths: Sequence[int]) -> Cost:
        n_spans = max(lengths, default=0) if self.positions == "from_end" else 1
        return Cost(forward_passes=len(lengths), rows=(graph.n_layers + 1) * n_spans)

    def run(self, work: Work) -> Rows:
        """A row per layer and position that at least one prompt has: mean and spread over prompts."""
        from pipeline.engine.edits import Site, run
        from pipeline.engine.senders import at_answer

        final, normed = work.model.parts.final_norm, Site("normed")
        sites = [Site("residual", layer) for layer in range(work.model.graph.n_layers + 1)]
        found: dict[tuple[int, str], list[np.ndarray]] = {}
        batches = work.batches if self.span is None else work.having(self.span).batches
        for batch in batches:
            if batch.n_reads > 1:
                raise PromptError(
                    "logit_lens reads one position at a time, and answers of several tokens are read at several; set "
                    "target: first_difference"
                )
            read = run(work.model, batch, read=[*sites, normed])
            objective = work.objective(batch, at_answer(read[normed], batch.answer_pos).squeeze(-2))
            for span, column in self._columns(batch):
                there = (column >= 0).cpu().numpy()
                for layer, site in enumerate(sites):
                    hidden = final(at_answer(read[site], column.clamp(min=0)).squeeze(-2))
                    found.setdefault((layer, span), []).append(objective(hidden).cpu().numpy()[there])
        keys = list(found)
        each = [Moments.of(np.concatenate(found[key])[:, None]) for key in keys]
        moments = Moments(
            *(np.asarray([getattr(one, name)[0] for one in each]) for name in ("n", "mean", "std"))
        )
        columns = {"layer": [layer for layer, _ in keys], "span": [span for _, span in keys]}
        return Rows.measured(READINGS, columns, moments)

    def _columns(self, batch: "Batch") -> "Iterator[tuple[str, Tensor]]":
        """Every position that is read, by name, and its column in each prompt; -1 where a prompt has none."""
        import torch

        if self.positions == "last":
            yield "last", batch.answer_pos
        elif self.span is not None:
            at = batch.at(self.span)
            assert at is not None, "a span is some positions"
            columns = torch.arange(batch.length, device=at.device)
            yield self.span, torch.where(at, columns, -1).max(1).values
        else:
            length = batch.last_read + 1
            for step in range(int(length.max())):
                yield str(-1 - step), torch.where(step < length, batch.answer_pos - step, -1)
