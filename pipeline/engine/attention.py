"""Attention as the stock model's layers call it while they are recorded: softmax in plain sight, or a kernel.

Knows transformers' attention interface. Does not know hooks, blocks or what is done with a record. Masks are those
that transformers makes.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, eager_mask, sdpa_mask

EXACT, FAST = "circuits", "circuits_fast"  # the names under which transformers finds them
RECORDER = "_circuits_recorder"  # the attribute of an attention module that says where to record


@dataclass
class Recorder:
    """Collects one layer's tensors while the stock forward runs; `exact` chooses explicit softmax attention."""

    exact: bool
    values: dict[str, Any] = field(default_factory=dict)


def recorded_attention(
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
    recorder: Recorder = getattr(module, RECORDER)
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


def own_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None = None
) -> tuple[Tensor, None]:
    """In place of the `_attn` of a family whose attention is a method: heads stay before positions."""
    z, _ = recorded_attention(module, query, key, value, attention_mask)
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


AttentionInterface.register(EXACT, recorded_attention)
AttentionMaskInterface.register(EXACT, eager_mask)
AttentionInterface.register(FAST, recorded_attention)
AttentionMaskInterface.register(FAST, _mask)
