"""Where heads look: what share of the attention of one place of the prompts goes to another (as Wang et al. 2022, arXiv
2211.00593, section 3, tell name movers from S-inhibition heads).

    share(head, to, from, side) = mean over the tokens of `to` of the sum over those of `from` of the head's attention

`from` is where the information is from, `to` the place that looks there, as of `knockout`; `side` is clean or
corrupted, and the places of both are the same tokens. A share is what the head does and no harm: it says nothing of
whether the behaviour needs it.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float
from pydantic import Field

from pipeline.core.errors import ConfigError
from pipeline.core.graph import Graph
from pipeline.core.naming import heads_named
from pipeline.core.results import ResultType, Rows
from pipeline.core.scores import Moments
from pipeline.methods.base import Cost, Method, Names, Needs, Positions, Several
from pipeline.methods.work import Work

if TYPE_CHECKING:
    from pipeline.engine.batch import Batch

SIDES: tuple[Literal["clean", "corrupted"], ...] = ("clean", "corrupted")
ATTENTION = ResultType("attention", ("node", "span_to", "span", "quantity"), value="share")
PROMPT_ATTENTION = ResultType("prompt_attention", (*ATTENTION.axes, "prompt"), value="share", merge="concat")


class Attention(Method):
    """Where heads look: the share of their attention that goes from the last position, or a span, to each of some
    spans, in clean and in corrupted prompts."""

    result: ClassVar[ResultType] = ATTENTION
    needs: ClassVar[Needs] = Needs(metric=False, ablation=False)

    name: Literal["attention"] = "attention"
    from_: Annotated[tuple[Positions, ...], Several] = Field(
        alias="from", min_length=1, max_length=100, description="spans that are looked at"
    )
    to: Annotated[tuple[Positions, ...], Several] = Field(
        default=("last",), min_length=1, max_length=100, description="who looks: last (the answer), or spans"
    )
    heads: Names = Field(
        default=("*",), min_length=1, max_length=100_000, description="whose attention: a9.h6, a9.*, *"
    )
    per_prompt: bool = Field(
        default=False, description="a share for every prompt, and not their mean and spread"
    )

    @property
    def kind(self) -> ResultType:
        return PROMPT_ATTENTION if self.per_prompt else ATTENTION

    def check(self, dtype: str) -> None:
        super().check(dtype)
        if "all" in (*self.to, *self.from_):
            raise ConfigError("attention goes from one span to another: name spans, or last, instead of all")

    def check_names(self, graph: Graph) -> None:
        heads_named(graph, self.heads)

    @property
    def spans(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(span for span in (*self.to, *self.from_) if span != "last"))

    def cost(self, graph: Graph, lengths: Sequence[int]) -> Cost:
        n = len(lengths)
        rows = len(heads_named(graph, self.heads)) * len(self.to) * len(self.from_) * len(SIDES)
        return Cost(forward_passes=len(SIDES) * n, rows=rows * n if self.per_prompt else rows)

    def run(self, work: Work) -> Rows:
        """A row per head, pair of spans and side, over the prompts that have all spans: mean and spread, or one for
        each of them."""
        for span in (*self.to, *self.from_):
            work = work.having(span)
        nodes = heads_named(work.model.graph, self.heads)
        keys: dict[str, list[Any]] = {axis: [] for axis in ATTENTION.axes}
        for key in (
            (n, to, span, side) for side in SIDES for n in nodes for to in self.to for span in self.from_
        ):
            for axis, value in zip(ATTENTION.axes, key, strict=True):
                keys[axis].append(value)
        rows = np.concatenate(
            [np.zeros((0, len(keys["node"]))), *(self._shares(work, batch, nodes) for batch in work.batches)]
        )
        if self.per_prompt:
            ids = [prompt_id for batch in work.batches for prompt_id in batch.prompt_ids]
            each: dict[str, Any] = {axis: column * len(ids) for axis, column in keys.items()}
            each["prompt"] = np.repeat(np.asarray(ids, dtype=np.int64), rows.shape[1])
            return Rows(PROMPT_ATTENTION, each, rows.reshape(-1))
        if not len(rows):
            return Rows.measured(ATTENTION, {axis: [] for axis in keys}, Moments.nothing())
        return Rows.measured(ATTENTION, keys, Moments.of(rows))

    def _shares(self, work: Work, batch: "Batch", nodes: Sequence[int]) -> Float[np.ndarray, "prompt row"]:
        """The shares of every prompt: sides in turn, in each the heads, and in each of these the pairs of spans."""
        from pipeline.engine.looking import shares

        named = [work.model.graph.senders[node] for node in nodes]
        heads = [(int(node.layer or 0), int(node.head or 0)) for node in named]
        sides = [shares(work.model, batch, heads, self.to, self.from_, side) for side in SIDES]
        return np.concatenate([found.reshape(batch.n_prompts, -1) for found in sides], axis=1)
