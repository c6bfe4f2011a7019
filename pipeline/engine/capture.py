"""A recorded run of the stock model in canonical shapes: what every part read and wrote, with masks and rotary
tables as the model made them.

Knows shapes. Does not know hooks (`recording` does), graphs or patching.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.engine.batch import Batch
from pipeline.engine.prefix import Prefix
from pipeline.engine.recording import recording, run_base
from pipeline.models.adapters import Block, Parts, Port
from pipeline.models.stock import PreTrainedModel


@dataclass(frozen=True)
class LayerContext:
    """What a layer's attention needs besides its inputs, as the stock forward made it."""

    mask: Float[Tensor, "prompt pos key"] | None
    rotary: tuple[Float[Tensor, "prompt pos rot"], Float[Tensor, "prompt pos rot"]] | None
    scaling: float
    softcap: float | None = None
    past: "tuple[Tensor, Tensor] | None" = None  # keys and values of positions before those recorded

    def window(self, start: int, k: Tensor, v: Tensor) -> "LayerContext":
        """The context of the positions from `start` on, which still attend to the keys and values before."""
        rotary = self.rotary
        return replace(
            self,
            mask=None if self.mask is None else self.mask[:, start:],
            rotary=None if rotary is None else (rotary[0][:, start:], rotary[1][:, start:]),
            past=(k[:, :, :start], v[:, :, :start]),
        )


@dataclass
class LayerRecord:
    """What one layer read and wrote. q, k, v are after norms and rotary embedding, one key and value per query
    head; `q_raw` and `k_raw` are before, recorded where all heads are normed together.

    `attn_raw` is what the output projection made, before the norm that some families have there. `scale` is
    what a head's z is multiplied by, besides weights, on its way to the residual stream; None is 1.
    """

    resid: Float[Tensor, "prompt pos d_model"]
    mid: Float[Tensor, "prompt pos d_model"]
    q: Float[Tensor, "prompt head pos d_head"]
    k: Float[Tensor, "prompt head pos d_head"]
    v: Float[Tensor, "prompt head pos d_head"]
    z: Float[Tensor, "prompt pos head d_head"]
    mlp: Float[Tensor, "prompt pos d_model"]
    context: LayerContext
    attn_raw: Float[Tensor, "prompt pos d_model"]
    scale: Float[Tensor, "prompt pos"] | float | None = None
    q_raw: Float[Tensor, "prompt head pos d_head"] | None = None
    k_raw: Float[Tensor, "prompt head pos d_head"] | None = None

    @property
    def z_written(self) -> Float[Tensor, "prompt pos head d_head"]:
        """z times `scale`: linear in it is what a head writes."""
        return scaled(self.z, self.scale)

    def window(self, start: int) -> "LayerRecord":
        """The positions from `start` on."""

        def rows(x: Tensor) -> Tensor:
            return x[:, start:]

        def heads(x: Tensor) -> Tensor:
            return x[:, :, start:]

        return LayerRecord(
            resid=rows(self.resid),
            mid=rows(self.mid),
            q=heads(self.q),
            k=heads(self.k),
            v=heads(self.v),
            z=rows(self.z),
            mlp=rows(self.mlp),
            context=self.context.window(start, self.k, self.v),
            attn_raw=rows(self.attn_raw),
            scale=rows(self.scale) if isinstance(self.scale, Tensor) else self.scale,
            q_raw=None if self.q_raw is None else heads(self.q_raw),
            k_raw=None if self.k_raw is None else heads(self.k_raw),
        )


@dataclass
class Capture:
    """A recorded forward pass: per layer what was read and written, and the residual before the final norm."""

    layers: list[LayerRecord]
    final: Float[Tensor, "prompt pos d_model"]

    @property
    def input(self) -> Float[Tensor, "prompt pos d_model"]:
        """Everything that enters block 0."""
        return self.layers[0].resid

    def after(self, layer: int) -> Float[Tensor, "prompt pos d_model"]:
        """The residual that leaves a block."""
        return self.final if layer == len(self.layers) - 1 else self.layers[layer + 1].resid

    def window(self, start: int) -> "Capture":
        """The positions from `start` on, which still attend to those before."""
        if start == 0:
            return self
        return Capture([layer.window(start) for layer in self.layers], self.final[:, start:])

    def prefix(self, start: int) -> Prefix | None:
        """What a run has of the positions before `start`; None where one of these attends to one from `start` on."""
        layers = [(layer.k, layer.v, layer.context.mask) for layer in self.layers]
        return Prefix.of([(k, v, None if mask is None else mask[:, None]) for k, v, mask in layers], start)


def scaled(
    z: Float[Tensor, "prompt pos head d_head"], scale: Float[Tensor, "prompt pos"] | float | None
) -> Float[Tensor, "prompt pos head d_head"]:
    """z times a factor per prompt and position, or one for all."""
    if scale is None:
        return z
    return z * (scale if isinstance(scale, float) else scale[..., None, None])


def write_scale(
    block: Block, attn_raw: Float[Tensor, "*lead d_model"]
) -> Float[Tensor, "*lead"] | float | None:
    """What heads' z is multiplied by on the way to the residual stream: the reciprocal root mean square of the
    layer's attention output where that is normed (`Block.normed_apart`), and the family's multiplier. None where
    nothing is."""
    if block.mixed:
        return None
    if not block.normed_apart:
        return None if block.multiplier == 1.0 else block.multiplier
    wide = attn_raw.to(torch.promote_types(attn_raw.dtype, torch.float32))
    rms = torch.rsqrt(wide.square().mean(-1) + block.post_eps)
    return (rms * block.multiplier).to(attn_raw.dtype)


@torch.no_grad()
def capture(
    model: PreTrainedModel, parts: Parts, ids: Tensor, batch: Batch, prefix: Prefix | None = None
) -> Capture:
    """Runs the stock model on `ids` and records it; with a `prefix` ids and batch are what comes after that."""
    with recording(model, parts, exact=True, prefix=prefix) as values:
        run_base(model, parts, ids, batch)
    layers = [layer_record(block, v) for block, v in zip(parts.blocks, values[:-1], strict=True)]
    if prefix is not None:
        for layer, past in zip(layers, prefix.layers, strict=True):
            layer.context = replace(layer.context, past=(past.k, past.v))
    return Capture(layers, values[-1]["final"].to(parts.norm_device))


def layer_record(block: Block, values: dict[str, Any]) -> LayerRecord:
    """One layer's dict from `recording`, with everything in canonical shapes."""
    resid = values["resid"]
    n_prompts, length = resid.shape[:2]
    d_head = values["v"].shape[-1]
    mask = values["mask"]
    if mask is not None:
        mask = mask[:, 0].expand(n_prompts, -1, -1)
    rotary = values["rotary"]
    if rotary is not None:
        cos, sin = rotary
        rotary = (cos.expand(n_prompts, -1, -1), sin.expand(n_prompts, -1, -1))

    def rows(name: str) -> Tensor:
        value: Tensor = values[name]
        return value.reshape(n_prompts, length, -1)

    attn_raw = rows("attn_raw")
    mlp = rows("mlp")
    return LayerRecord(
        resid=resid,
        mid=mid_of(block, values),
        q=values["q"],
        k=values["k"],
        v=values["v"],
        z=rows("z").unflatten(-1, (-1, d_head)),
        mlp=mlp if block.multiplier == 1.0 else mlp * block.multiplier,
        context=LayerContext(mask, rotary, values["scaling"], values["softcap"]),
        attn_raw=attn_raw,
        scale=write_scale(block, attn_raw),
        q_raw=raw_heads(block, values, "q") if block.joint_qk else None,
        k_raw=raw_heads(block, values, "k") if block.joint_qk else None,
    )


def mid_of(block: Block, values: dict[str, Any]) -> Tensor:
    """What the MLP's norm read: the residual after attention, or before it in parallel blocks."""
    resid: Tensor = values["resid"]
    if block.parallel:
        return resid
    found: Tensor = values["mid"] if "mid" in values else values["mlp_in"]
    return found.reshape(resid.shape)


def raw_heads(block: Block, values: dict[str, Any], port: Port) -> Float[Tensor, "prompt head pos d_head"]:
    """What the projection of q or k made, before norms and rotary embedding, one per query head."""
    raw: Tensor = values[f"{port}_raw"]
    per_head = raw.unflatten(-1, (-1, values["q"].shape[-1])).transpose(1, 2)
    return per_head if port == "q" else per_head.repeat_interleave(block.kv_group, 1)
