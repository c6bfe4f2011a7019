"""What senders write to the residual stream, and differences of that between two runs.

Knows captures and the graph's sender order. Does not know receivers. Head outputs are kept at head size (z)
and projected when they are needed: all of them at d_model would be the largest tensor of the project.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pipeline.core.graph import Node
from pipeline.engine.capture import Capture, scaled, write_scale
from pipeline.models.adapters import Block, Parts


@dataclass(frozen=True)
class SenderValues:
    """What `input`, every head (before its output projection) and every MLP write. Output biases belong to none.

    A head's z includes the scalar factors on its way to the residual stream (`LayerRecord.scale`), so that
    what it writes is linear in it. Where blocks are `mixed`, what heads write is in front of the norm after attention:
    `written_alone` tells what it changes behind it.
    """

    input: Float[Tensor, "prompt pos d_model"]
    z: tuple[Float[Tensor, "prompt pos head d_head"], ...]
    mlp: tuple[Float[Tensor, "prompt pos d_model"], ...]

    @staticmethod
    def of(run: Capture) -> "SenderValues":
        return SenderValues(
            run.input, tuple(r.z_written for r in run.layers), tuple(r.mlp for r in run.layers)
        )

    def zeros(self) -> "SenderValues":
        return SenderValues(
            torch.zeros_like(self.input),
            tuple(torch.zeros_like(z) for z in self.z),
            tuple(torch.zeros_like(m) for m in self.mlp),
        )

    def filled(self, input_: Tensor, z: Sequence[Tensor], mlp: Sequence[Tensor]) -> "SenderValues":
        """The given values, broadcast over prompts (and positions) to these shapes and dtype."""
        return SenderValues(
            input_.to(self.input).expand_as(self.input),
            tuple(new.to(old).expand_as(old) for new, old in zip(z, self.z, strict=True)),
            tuple(new.to(old).expand_as(old) for new, old in zip(mlp, self.mlp, strict=True)),
        )

    def minus(self, other: "SenderValues", real: Bool[Tensor, "prompt pos"]) -> "SenderValues":
        """The difference at real positions, exactly zero at padding; of 16-bit values in float32, which holds it."""

        def difference(a: Tensor, b: Tensor) -> Tensor:
            wide = torch.promote_types(a.dtype, torch.float32)
            a, b = a.to(wide), b.to(wide)
            at = real.to(a.device).view(*real.shape, *[1] * (a.ndim - 2))
            return torch.where(at, a - b, torch.zeros((), dtype=a.dtype, device=a.device))

        return SenderValues(
            difference(self.input, other.input),
            tuple(difference(a, b) for a, b in zip(self.z, other.z, strict=True)),
            tuple(difference(a, b) for a, b in zip(self.mlp, other.mlp, strict=True)),
        )

    def wide(self) -> "SenderValues":
        """The same in float32 or wider: what is summed over senders keeps no rounding of 16 bits."""

        def widened(x: Tensor) -> Tensor:
            return x.to(torch.promote_types(x.dtype, torch.float32))

        return SenderValues(
            widened(self.input), tuple(widened(z) for z in self.z), tuple(widened(m) for m in self.mlp)
        )

    def only_at(self, chosen: Bool[Tensor, "prompt pos"]) -> "SenderValues":
        """The values at some positions, and zero elsewhere."""
        return self.minus(self.zeros(), chosen)

    def prompts(self, rows: slice) -> "SenderValues":
        return SenderValues(
            self.input[rows], tuple(z[rows] for z in self.z), tuple(m[rows] for m in self.mlp)
        )

    def at(self, rows: Callable[[Tensor], Tensor]) -> "SenderValues":
        """The values of the rows that a function picks of `[prompt, pos, width]`."""
        z = tuple(rows(z.flatten(2)).unflatten(-1, z.shape[2:]) for z in self.z)
        return SenderValues(rows(self.input), z, tuple(rows(m) for m in self.mlp))

    def written_by(self, sender: Node, parts: Parts) -> Float[Tensor, "prompt pos d_model"]:
        """What one sender adds to the residual stream."""
        if sender.layer is None:
            return self.input
        if sender.kind == "mlp":
            return self.mlp[sender.layer]
        block = parts.blocks[sender.layer]
        z = self.z[sender.layer][:, :, sender.head]
        out = z @ block.projections.out[sender.head].to(z.dtype)
        return out if (gain := block.post_gain) is None else out * gain

    def written(
        self, parts: Parts, device: torch.device | None = None
    ) -> Float[Tensor, "sender prompt pos d_model"]:
        """What each sender adds to the residual stream, in sender order, on one device (that of the input)."""
        n_prompts, length, d_model = self.input.shape
        heads = self.z[0].shape[2]
        n_senders = 1 + len(self.z) * (heads + 1)
        out = self.input.new_empty(n_senders, n_prompts, length, d_model, device=device or self.input.device)
        out[0] = self.input
        for layer, block in enumerate(parts.blocks):
            first = 1 + layer * (heads + 1)
            z = self.z[layer].permute(2, 0, 1, 3).flatten(1, 2)
            weight = block.projections.out.to(z.dtype)
            part = out[first : first + heads]
            if block.device == out.device and z.dtype == out.dtype:
                torch.bmm(z, weight, out=part.flatten(1, 2))
            else:
                part.copy_(torch.bmm(z, weight).view(part.shape).to(part.device))
            if (gain := block.post_gain) is not None:
                part.mul_(gain.to(out.device))
            out[first + heads] = self.mlp[layer].to(out.device)
        return out

    def written_alone(
        self, parts: Parts, base: "SenderValues", device: torch.device | None = None
    ) -> Float[Tensor, "sender prompt pos d_model"]:
        """These differences from `base` as a reader meets them that takes one of them and nothing else: `written`,
        but norm(sum + difference) - norm(sum) for heads whose sum is normed by their readers."""
        out = self.written(parts, device)
        heads = self.z[0].shape[2]
        for layer, block in enumerate(parts.blocks):
            if block.mixed:
                first = 1 + layer * (heads + 1)
                part, raw = out[first : first + heads], base.attention_sum(block)
                for change in part:  # one at a time: a norm needs room for several of what it reads
                    there = change.to(block.device)
                    change.copy_((block.added(raw + there) - block.added(raw)).to(change.device))
        return out

    def attention_sum(self, block: Block) -> Float[Tensor, "prompt pos d_model"]:
        """What the output projection of a mixed block makes of all heads, bias included."""
        z = self.z[block.layer]
        z = z.to(torch.promote_types(z.dtype, torch.float32)).flatten(2)
        out = z @ block.projections.out.flatten(0, 1).to(z.dtype)
        return out if (bias := block.out_bias) is None else out + bias


@lru_cache
def _count(n: int, device: torch.device) -> Int[Tensor, " n"]:
    return torch.arange(n, device=device)


def at_answer(
    x: Float[Tensor, "*variant prompt pos width"], answer_pos: Int[Tensor, "prompt *read"]
) -> Float[Tensor, "*variant prompt row width"]:
    """The row of each prompt at which its answer is read, or the rows where there are several."""
    prompts, places = _count(x.shape[-3], x.device), answer_pos.to(x.device)
    if places.ndim == 1:
        return x[..., prompts, places, :].unsqueeze(-2)
    return x[..., prompts[:, None], places, :]


def senders_of(parts: Parts, records: Sequence[dict[str, Any]]) -> SenderValues:
    """What every sender wrote, from the dicts of `pipeline.engine.recording.recording`."""
    z, mlp = [], []
    shape = records[0]["resid"].shape
    for block, record in zip(parts.blocks, records, strict=True):
        heads = record["z"].detach().reshape(*shape[:2], block.n_heads, -1)
        z.append(scaled(heads, write_scale(block, record["attn_raw"].detach().reshape(shape))))
        out = record["mlp"].detach().reshape(shape)
        mlp.append(out if block.multiplier == 1.0 else out * block.multiplier)
    return SenderValues(records[0]["resid"].detach(), tuple(z), tuple(mlp))
