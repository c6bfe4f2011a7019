"""The empty circuit of a batch: what every receiver reads when no edge is kept, and what senders write then.

All circuits of a batch start from it. Knows captures, executor and what blocks add that belongs to no sender. Does not
know circuits.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.core.graph import Graph
from pipeline.engine.capture import Capture
from pipeline.engine.executor import Executor
from pipeline.engine.senders import SenderValues, at_answer
from pipeline.models.adapters import Block, Parts

Residual = Float[Tensor, "prompt pos d_model"]


@dataclass(frozen=True)
class Emptied:
    """Sums of ablated values over the senders before each layer's heads, before its MLP and before `logits`, in float32
    or wider and each on the device of its block; with the constants of `written_by_none`.

    `values` are the ablated values themselves, `input` what enters block 0 in the clean run. `raw` is the sum over a
    layer's heads where it is normed by whoever reads it (`Block.mixed`).
    """

    parts: Parts
    graph: Graph
    executor: Executor
    input: Residual
    values: SenderValues
    heads: tuple[Residual, ...]
    mlps: tuple[Residual, ...]
    raw: tuple[Residual | None, ...]
    final: Residual

    @staticmethod
    @torch.no_grad()
    def of(
        parts: Parts, graph: Graph, executor: Executor, clean: Capture, ablated: SenderValues
    ) -> "Emptied":
        """The empty circuit of a batch whose clean run was recorded, when every sender writes `ablated`."""
        values = ablated.wide()
        x = values.input
        heads, mlps, raws = [], [], []
        for block, z, mlp in zip(parts.blocks, values.z, values.mlp, strict=True):
            x = x.to(block.device)
            heads.append(x)
            raw = z.flatten(2) @ block.projections.out.flatten(0, 1).to(z.dtype)
            raws.append(raw if block.mixed else None)
            after = after_attention(clean, block, x, raw)
            mlps.append(x if block.parallel else after)
            x = after + mlp.to(block.device)
        final = x.to(parts.norm_device)
        return Emptied(
            parts, graph, executor, clean.input, values, tuple(heads), tuple(mlps), tuple(raws), final
        )

    def hidden(self) -> Float[Tensor, "prompt *read d_model"]:
        """Final hidden states at the answer of the empty circuit."""
        x = at_answer(self.final, self.executor.answer_pos).to(self.input.dtype)
        return self.executor.read_out(x).squeeze(-2)

    def z(self, layer: int, heads: Sequence[int]) -> Float[Tensor, "head one prompt pos d_head"]:
        """What these heads write before their output projection, `SenderValues.z`."""
        values = self.values.z[layer].to(self.parts.blocks[layer].device)
        return values.permute(2, 0, 1, 3)[list(heads), None]


def after_attention(clean: Capture, block: Block, x: Tensor, raw: Tensor) -> Tensor:
    """The residual stream x once a block's attention has been added, given the sum `raw` over its heads; with what it
    adds that belongs to no head."""
    if block.mixed:
        return x + attention_added(block, raw)
    after = x + (raw if (gain := block.post_gain) is None else raw * gain)
    return after if (bias := written_by_none(clean, block)) is None else after + bias


def attention_added(block: Block, raw: Float[Tensor, "*lead d_model"]) -> Float[Tensor, "*lead d_model"]:
    """What the attention of a mixed block adds, given the sum over its heads."""
    here, bias = raw.to(block.device), block.out_bias
    return block.added(here if bias is None else here + bias).to(raw.device)


def written_by_none(clean: Capture, block: Block) -> Tensor | None:
    """What attention writes that belongs to no head: the bias of its output projection, scaled as in the clean run. Of
    a mixed block nothing: the bias is part of what is normed."""
    bias, scale = block.out_bias, clean.layers[block.layer].scale
    if bias is None or block.mixed:
        return None
    if scale is not None:
        bias = bias * (scale if isinstance(scale, float) else scale[..., None])
    return bias if (gain := block.post_gain) is None else bias * gain
