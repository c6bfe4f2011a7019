"""Recorded runs of the stock model: what every part read and wrote, with masks and rotary tables as the model
made them.

Knows hooks and transformers' attention interface. Does not know graphs or patching. Embeddings, masks,
windows and position tables are never re-implemented: they are taken from the forward pass in which the model
uses them.

Hooks and the attention name, which is global state on the model's config, live in context managers.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface, eager_mask, sdpa_mask

from pipeline.engine.batch import Batch
from pipeline.models.adapters import Parts

_NAME = "circuits"
_RECORDER = "_circuits_recorder"


@dataclass(frozen=True)
class LayerContext:
    """What a layer's attention needs besides its inputs, as the stock forward made it."""

    mask: Float[Tensor, "prompt pos pos"] | None
    rotary: tuple[Float[Tensor, "prompt pos rot"], Float[Tensor, "prompt pos rot"]] | None
    scaling: float


@dataclass
class LayerRecord:
    """What one layer read and wrote. q, k, v are after the rotary embedding, one key and value per query head."""

    resid: Float[Tensor, "prompt pos d_model"]
    mid: Float[Tensor, "prompt pos d_model"]
    q: Float[Tensor, "prompt head pos d_head"]
    k: Float[Tensor, "prompt head pos d_head"]
    v: Float[Tensor, "prompt head pos d_head"]
    z: Float[Tensor, "prompt pos head d_head"]
    mlp: Float[Tensor, "prompt pos d_model"]
    context: LayerContext


@dataclass
class Capture:
    """A recorded forward pass: per layer what was read and written, and the residual before the final norm."""

    layers: list[LayerRecord]
    final: Float[Tensor, "prompt pos d_model"]

    @property
    def input(self) -> Float[Tensor, "prompt pos d_model"]:
        """Everything that enters block 0."""
        return self.layers[0].resid


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
    **_: Any,
) -> tuple[Tensor, None]:
    """The attention that transformers calls while a recorder is attached. Keys and values are repeated per
    query head before they are recorded, so that their gradients are those of single query heads."""
    recorder: _Recorder = getattr(module, _RECORDER)
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    group = query.shape[1] // key.shape[1]
    if group > 1:
        key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
    recorder.values.update(q=query, k=key, v=value, mask=attention_mask, scaling=scaling)
    if recorder.exact:
        z = attend(query, key, value, attention_mask, scaling)
    else:
        causal = attention_mask is None and query.shape[2] > 1
        z = nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=attention_mask, is_causal=causal, scale=scaling
        )
    return z.transpose(1, 2), None


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scaling: float) -> Tensor:
    """softmax(q k^T * scaling + mask) v, the softmax in float32 or wider."""
    scores = torch.matmul(q, k.transpose(-1, -2)) * scaling
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

    Keys: resid mid q k v mask scaling rotary z mlp, normed1 and normed2 (outputs of the norms); `final` in
    the last. Hooks are removed and the model's attention restored on the way out, also after an exception.
    """
    recorders = [_Recorder(exact) for _ in parts.blocks]
    last: dict[str, Any] = {}
    handles = []
    before = model.config._attn_implementation  # noqa: SLF001 - the documented setter validates against the hub

    def keep(values: dict[str, Any], name: str) -> Any:
        return lambda _module, args: values.__setitem__(name, args[0])

    def keep_output(values: dict[str, Any], name: str) -> Any:
        return lambda _module, _args, output: values.__setitem__(name, output)

    def keep_rotary(values: dict[str, Any]) -> Any:
        return lambda _module, _args, kwargs: values.__setitem__("rotary", kwargs.get("position_embeddings"))

    try:
        model.config._attn_implementation = _NAME if exact else f"{_NAME}_fast"  # noqa: SLF001
        for block, recorder in zip(parts.blocks, recorders, strict=True):
            values = recorder.values
            setattr(block.attn, _RECORDER, recorder)
            handles += [
                block.module.register_forward_pre_hook(keep_rotary(values), with_kwargs=True),
                block.norm1.register_forward_pre_hook(keep(values, "resid")),
                block.norm1.register_forward_hook(keep_output(values, "normed1")),
                block.norm2.register_forward_pre_hook(keep(values, "mid")),
                block.norm2.register_forward_hook(keep_output(values, "normed2")),
                block.out.register_forward_pre_hook(keep(values, "z")),
                block.mlp.register_forward_hook(keep_output(values, "mlp")),
            ]
        handles.append(parts.final_norm.register_forward_pre_hook(keep(last, "final")))
        yield [*(recorder.values for recorder in recorders), last]
    finally:
        for handle in handles:
            handle.remove()
        for block in parts.blocks:
            if hasattr(block.attn, _RECORDER):
                delattr(block.attn, _RECORDER)
        model.config._attn_implementation = before  # noqa: SLF001


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
    return Capture([layer_record(layer, batch) for layer in values[:-1]], values[-1]["final"])


def layer_record(values: dict[str, Any], batch: Batch) -> LayerRecord:
    """One layer's dict from `recording`, with the context in canonical shapes."""
    n_prompts, length = batch.clean.shape
    heads, d_head = values["q"].shape[1], values["v"].shape[-1]
    mask = values["mask"]
    if mask is not None:
        mask = mask[:, 0].expand(n_prompts, length, length)
    rotary = values["rotary"]
    if rotary is not None:
        cos, sin = rotary
        rotary = (cos.expand(n_prompts, -1, -1), sin.expand(n_prompts, -1, -1))
    return LayerRecord(
        resid=values["resid"],
        mid=values["mid"],
        q=values["q"],
        k=values["k"],
        v=values["v"],
        z=values["z"].view(n_prompts, length, heads, d_head),
        mlp=values["mlp"],
        context=LayerContext(mask, rotary, values["scaling"]),
    )
