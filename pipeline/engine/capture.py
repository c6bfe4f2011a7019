"""Recorded runs of the stock model: what every part read and wrote, with masks and rotary tables as the model
made them.

Knows hooks and transformers' attention interface. Does not know graphs or patching. Embeddings, masks,
windows and position tables are never re-implemented: they are taken from the forward pass in which the model
uses them.

Hooks and the attention name, which is global state on the model's config, live in context managers.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface, eager_mask, sdpa_mask

from pipeline.engine.batch import Batch
from pipeline.models.adapters import Block, Parts, Port

_NAME = "circuits"
_RECORDER = "_circuits_recorder"


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

    def is_causal_at(self, start: int) -> bool:
        """Whether no position before `start` attends to one from `start` on."""
        masks = [layer.context.mask for layer in self.layers]
        return all(mask is not None and bool((mask[:, :start, start:] < -1e4).all()) for mask in masks)


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
    layer's attention output where that is normed, and the family's multiplier. None where nothing is."""
    if block.post_attn is None:
        return None if block.multiplier == 1.0 else block.multiplier
    wide = attn_raw.to(torch.promote_types(attn_raw.dtype, torch.float32))
    rms = torch.rsqrt(wide.square().mean(-1) + block.post_eps)
    return (rms * block.multiplier).to(attn_raw.dtype)


@dataclass
class _Recorder:
    """Collects one layer's tensors while the stock forward runs; `exact` chooses explicit softmax attention."""

    exact: bool
    values: dict[str, Any] = field(default_factory=dict)


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """The attention that transformers calls while a recorder is attached. Keys and values are repeated per
    query head before they are recorded, so that their gradients are those of single query heads."""
    recorder: _Recorder = getattr(module, _RECORDER)
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    group = query.shape[1] // key.shape[1]
    if group > 1:
        key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
    recorder.values.update(q=query, k=key, v=value, mask=attention_mask, scaling=scaling, softcap=softcap)
    if recorder.exact or softcap is not None:
        if attention_mask is None:
            attention_mask = causal(query)
        z = attend(query, key, value, attention_mask, scaling, softcap)
    else:
        is_causal = attention_mask is None and query.shape[2] > 1
        z = nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=attention_mask, is_causal=is_causal, scale=scaling
        )
    return z.transpose(1, 2), None


def causal(query: Tensor) -> Float[Tensor, "pos pos"] | None:
    """The additive mask of plain causal attention, or None for a single position."""
    length = query.shape[-2]
    if length == 1:
        return None
    lowest = torch.finfo(query.dtype).min
    return torch.full((length, length), lowest, dtype=query.dtype, device=query.device).triu(1)


def attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scaling: float, softcap: float | None = None
) -> Tensor:
    """softmax(q k^T * scaling + mask) v, the scores capped before the mask where the family does so; the
    softmax in float32 or wider."""
    scores = torch.matmul(q, k.transpose(-1, -2)) * scaling
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if mask is not None:
        scores = scores + mask
    wide = torch.promote_types(scores.dtype, torch.float32)
    return torch.matmul(scores.softmax(-1, dtype=wide).to(v.dtype), v)


def _mask(*args: Any, allow_is_causal_skip: bool = True, **kwargs: Any) -> Tensor | None:
    """An additive mask, or None where plain causal attention says the same and kernels know it."""
    if allow_is_causal_skip and sdpa_mask(*args, allow_is_causal_skip=True, **kwargs) is None:
        return None
    return eager_mask(*args, **kwargs)


AttentionInterface.register(_NAME, _attention)
AttentionMaskInterface.register(_NAME, eager_mask)
AttentionInterface.register(f"{_NAME}_fast", _attention)
AttentionMaskInterface.register(f"{_NAME}_fast", _mask)


@contextmanager
def recording(model: PreTrainedModel, parts: Parts, *, exact: bool) -> Iterator[list[dict[str, Any]]]:
    """While open, every forward of `model` fills one dict per layer, and one more for the final norm.

    Keys: resid q k v mask scaling softcap rotary z attn_raw mlp_in mlp, `mid` where the MLP has a norm of its
    own, q_raw and k_raw where there are norms of them; `final` in the last. `mlp_in` is a view of its own, so
    that its gradient is that of the MLP alone where it shares a norm with attention. Hooks are removed and the
    model's attention restored on the way out, also after an exception.
    """
    recorders = [_Recorder(exact) for _ in parts.blocks]
    last: dict[str, Any] = {}
    handles = []
    before = model.config._attn_implementation  # noqa: SLF001 - the documented setter validates against the hub
    try:
        model.config._attn_implementation = _NAME if exact else f"{_NAME}_fast"  # noqa: SLF001
        for block, recorder in zip(parts.blocks, recorders, strict=True):
            setattr(block.attn, _RECORDER, recorder)
            handles += _record_block(block, recorder.values)
            if block.family.own_attention:
                block.attn._attn = partial(_own_attention, block.attn)  # type: ignore[assignment]  # noqa: SLF001
        handles.append(parts.final_norm.register_forward_pre_hook(_keep_input(last, "final")))
        yield [*(recorder.values for recorder in recorders), last]
    finally:
        for handle in handles:
            handle.remove()
        for block in parts.blocks:
            for name in (_RECORDER, "_attn"):
                if name in block.attn.__dict__:
                    delattr(block.attn, name)
        model.config._attn_implementation = before  # noqa: SLF001


def _own_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None = None
) -> tuple[Tensor, None]:
    """In place of the `_attn` of a family whose attention is a method: heads stay before positions."""
    z, _ = _attention(module, query, key, value, attention_mask)
    return z.transpose(1, 2), None


def _record_block(block: Block, values: dict[str, Any]) -> list[Any]:
    """Hooks that fill `values` when the block runs."""

    def keep_context(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # Before accelerate has moved anything: these may still be where the layer before computed.
        values["resid"] = (args[0] if args else kwargs["hidden_states"]).to(block.device)
        tables = block.rotary_tables(kwargs)
        values["rotary"] = None if tables is None else tuple(table.to(block.device) for table in tables)

    def keep_mlp_input(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        values["mlp_in"] = args[0].view_as(args[0])
        return (values["mlp_in"], *args[1:])

    handles = [
        block.module.register_forward_pre_hook(keep_context, with_kwargs=True),
        block.out.register_forward_pre_hook(_keep_input(values, "z")),
        block.out.register_forward_hook(_keep_output(values, "attn_raw")),
        block.mlp_in.register_forward_pre_hook(keep_mlp_input),
        (block.post_mlp or block.mlp_out).register_forward_hook(_keep_output(values, "mlp")),
    ]
    if block.norm2 is not block.norm1 and not block.parallel and not isinstance(block.norm2, nn.Identity):
        handles.append(block.norm2.register_forward_pre_hook(_keep_input(values, "mid")))
    if block.q_norm is not None:
        for port in ("q", "k"):
            projection = block.attn.get_submodule(block.family.projections[port])
            handles.append(projection.register_forward_hook(_keep_output(values, f"{port}_raw")))
    return handles


def _keep_input(values: dict[str, Any], name: str) -> Any:
    return lambda _module, args: values.__setitem__(name, args[0])


def _keep_output(values: dict[str, Any], name: str) -> Any:
    def keep(_module: nn.Module, _args: Any, output: Any) -> None:
        values[name] = output[0] if isinstance(output, tuple) else output

    return keep


def run_base(model: PreTrainedModel, parts: Parts, ids: Tensor, batch: Batch) -> Tensor:
    """The stock decoder without its unembedding: hidden states after the final norm."""
    mask = batch.attention_mask
    if mask.is_floating_point():
        mask = mask.to(model.dtype).clamp(min=torch.finfo(model.dtype).min)
    outputs = parts.base(input_ids=ids, attention_mask=mask, position_ids=batch.position_ids, use_cache=False)
    return outputs.last_hidden_state


@torch.no_grad()
def capture(model: PreTrainedModel, parts: Parts, ids: Tensor, batch: Batch) -> Capture:
    """Runs the stock model on `ids` and records it."""
    with recording(model, parts, exact=True) as values:
        run_base(model, parts, ids, batch)
    layers = [layer_record(block, v, batch) for block, v in zip(parts.blocks, values[:-1], strict=True)]
    return Capture(layers, values[-1]["final"].to(parts.norm_device))


def layer_record(block: Block, values: dict[str, Any], batch: Batch) -> LayerRecord:
    """One layer's dict from `recording`, with everything in canonical shapes."""
    n_prompts, length = batch.clean.shape
    d_head = values["v"].shape[-1]
    resid = values["resid"]
    mask = values["mask"]
    if mask is not None:
        mask = mask[:, 0].expand(n_prompts, length, length)
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
