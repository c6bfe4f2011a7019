"""Attention knockout (Geva et al. 2023, arXiv 2304.14767): what is lost when one span can no longer look at another.

    score(layer, to, from) = how much worse the metric is when, in `window` layers around this one, no head lets the
                             positions of `to` attend to those of `from`

Their figure 2 has a window of a tenth of the layers; 1 is that layer alone. Positions keep attending to whatever else
they could. Spans are named by prompts; `last` is the answer's position.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float
from pydantic import Field

from pipeline.core.errors import ConfigError
from pipeline.core.graph import Graph
from pipeline.core.results import ResultType, Rows
from pipeline.core.scores import Moments
from pipeline.methods.base import Cost, Method, Needs, Positions, Several
from pipeline.methods.work import Work

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.engine.batch import Batch

KNOCKOUTS = ResultType("knockouts", ("layer", "span_to", "span"))


class Knockout(Method):
    """What is lost when attention from one span of the prompt to another is cut, layer by layer."""

    result: ClassVar[ResultType] = KNOCKOUTS
    needs: ClassVar[Needs] = Needs(ablation=False)

    name: Literal["knockout"] = "knockout"
    from_: Annotated[tuple[Positions, ...], Several] = Field(
        alias="from", min_length=1, max_length=100, description="spans that are no longer looked at"
    )
    to: Positions = Field(
        default="last", description="the span that can no longer look: last (the answer), or a name"
    )
    window: int = Field(default=1, ge=1, le=1000, description="layers around each in which attention is cut")

    def check(self, dtype: str) -> None:
        super().check(dtype)
        if "all" in (self.to, *self.from_):
            raise ConfigError(
                "knockout cuts attention from one span to another: name spans, or last, instead of all"
            )

    @property
    def spans(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(span for span in (self.to, *self.from_) if span != "last"))

    def cost(self, graph: Graph, lengths: Sequence[int]) -> Cost:
        runs = graph.n_layers * len(self.from_)
        return Cost(forward_passes=(1 + runs) * len(lengths), rows=runs)

    def run(self, work: Work) -> Rows:
        """A row per layer and span: mean and spread over the prompts that have all spans."""
        for span in (self.to, *self.from_):
            work = work.having(span)
        n_layers = work.model.graph.n_layers
        rows = [self._harm(work, batch) for batch in work.batches]
        columns: dict[str, Any] = {
            "layer": np.repeat(np.arange(n_layers), len(self.from_)),
            "span_to": [self.to] * (n_layers * len(self.from_)),
            "span": list(self.from_) * n_layers,
        }
        if not rows:
            columns = {axis: [] for axis in columns}
        harm = np.concatenate([np.zeros((0, len(columns["layer"]))), *rows])
        return Rows.measured(KNOCKOUTS, columns, Moments.of(harm) if rows else Moments.nothing())

    def _harm(self, work: Work, batch: "Batch") -> Float[np.ndarray, "prompt row"]:
        """By how much the metric gets worse, prompt by prompt: layers in turn, and in each the spans."""
        from pipeline.engine import edits
        from pipeline.engine.senders import at_answer

        normed, queries = edits.Site("normed"), batch.at(self.to)

        def answer(cuts: "Sequence[edits.Edit]") -> "Tensor":
            hidden = edits.run(work.model, batch, cuts, [normed])[normed]
            return at_answer(hidden, batch.answer_pos).squeeze(-2)

        clean = answer([])
        objective, rows = work.objective(batch, clean), []
        for layer in range(work.model.graph.n_layers):
            for span in self.from_:
                keys = batch.at(span)
                assert queries is not None, "a span is some positions"
                assert keys is not None, "a span is some positions"
                cuts = [
                    edits.Knockout(one, None, queries, keys) for one in self._near(layer, work.model.graph)
                ]
                rows.append(((objective(answer(cuts)) - objective(clean)) * work.sign).cpu().numpy())
        return np.stack(rows, axis=1)

    def _near(self, layer: int, graph: Graph) -> range:
        """The layers around one in which attention is cut."""
        return range(
            max(0, layer - (self.window - 1) // 2), min(graph.n_layers, layer + self.window // 2 + 1)
        )
