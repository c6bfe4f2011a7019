"""Attention as the stock model's layers call it while they are recorded: softmax in plain sight, or a kernel.

Knows transformers' attention interface. Does not know hooks, blocks or what is done with a record. Masks are those
that transformers makes.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from pipeline.core.errors import CircuitsError
from pipeline.models.stock import AttentionInterface, AttentionMaskInterface, eager_mask, sdpa_mask

EXACT, FAST = "circuits", "circuits_fast"  # the names under which transformers finds them
EDITED, EDITOR = "circuits_edited", "_circuits_editor"  # the same while a run is edited
RECORDER = "_circuits_recorder"  # the attribute of an attention module that says where to record


@dataclass(frozen=True)
class Past:
    """What a layer has of the columns before those that are run: keys and values, one per query head; and the mask,
    as the model made it for all columns, with which those that are run look at both."""

    k: Float[Tensor, "prompt head before d_head"]
    v: Float[Tensor, "prompt head before d_head"]
    mask: Float[Tensor, "_prompt one pos key"]


@dataclass
class Recorder:
    """Collects one layer's tensors while the stock forward runs; `exact` chooses explicit softmax attention. Where the
    pattern is `frozen`, gradients reach values alone. With a `past` only the columns after it are run."""

    exact: bool
    frozen: bool = False
    past: Past | None = None
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
    key, value, scaling = _per_head(query, key, value, scaling)
    past = recorder.past
    if past is not None:
        attention_mask = past.mask
    recorder.values.update(q=query, k=key, v=value, mask=attention_mask, scaling=scaling, softcap=softcap)
    if past is not None:
        key, value = torch.cat([past.k, key], 2), torch.cat([past.v, value], 2)
    if recorder.exact or recorder.frozen or softcap is not None:
        if attention_mask is None:
            attention_mask = causal(query)
        if recorder.frozen:
            query, key = query.detach(), key.detach()
        z = attend(query, key, value, attention_mask, scaling, softcap)
    else:
        is_causal = attention_mask is None and query.shape[2] > 1
        z = nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=attention_mask, is_causal=is_causal, scale=scaling
        )
    return z.transpose(1, 2), None


def heads_first(attention: Callable[..., tuple[Tensor, None]]) -> Callable[..., tuple[Tensor, None]]:
    """The same in place of the `_attn` of a family whose attention is a method: heads stay before positions."""

    def own(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None = None
    ) -> tuple[Tensor, None]:
        z, _ = attention(module, query, key, value, attention_mask)
        return z.transpose(1, 2), None

    return own


def _per_head(
    query: Tensor, key: Tensor, value: Tensor, scaling: float | None
) -> tuple[Tensor, Tensor, float]:
    """Keys and values repeated per query head, and the factor of the scores."""
    group = query.shape[1] // key.shape[1]
    if group > 1:
        key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
    return key, value, query.shape[-1] ** -0.5 if scaling is None else scaling


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
    return torch.matmul(_softmax(_scores(q, k, mask, scaling, softcap)).to(v.dtype), v)


def _scores(q: Tensor, k: Tensor, mask: Tensor | None, scaling: float, softcap: float | None) -> Tensor:
    scores = torch.matmul(q, k.transpose(-1, -2))
    if softcap is not None:
        scores = torch.tanh(scores * scaling / softcap) * softcap
        scaling = 1.0
    return scores * scaling if mask is None else torch.add(mask, scores, alpha=scaling)


def _softmax(scores: Tensor) -> Tensor:
    return scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32))


@dataclass(frozen=True, eq=False)
class Knockout:
    """Cuts attention of heads of a layer (None: all of them) from positions to positions: the scores of `queries` that
    look at `keys` are -inf before softmax (Geva et al. 2023, arXiv 2304.14767). CircuitsError, when it runs, where a
    query is left with nothing to look at."""

    layer: int
    heads: tuple[int, ...] | None
    queries: Bool[Tensor, "prompt pos"]
    keys: Bool[Tensor, "prompt pos"]


@dataclass(frozen=True)
class Editor:
    """What is cut from the attention of one layer, and who keeps its pattern [prompt, head, query, key]."""

    cuts: tuple[Knockout, ...]
    keep: Callable[[Tensor], None] | None


def edited_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """The attention that transformers calls while a run is edited."""
    editor: Editor = getattr(module, EDITOR)
    key, value, scaling = _per_head(query, key, value, scaling)
    mask = causal(query) if attention_mask is None else attention_mask
    scores = _scores(query, key, mask, scaling, softcap)
    for cut in editor.cuts:
        scores = _without(scores, cut)
    pattern = _softmax(scores)
    if editor.keep is not None:
        editor.keep(pattern)
    return torch.matmul(pattern.to(value.dtype), value).transpose(1, 2), None


def _without(scores: Tensor, cut: Knockout) -> Tensor:
    """Scores with -inf where they are cut."""
    queries, keys = (x.to(scores.device) for x in (cut.queries, cut.keys))
    hidden = (queries[:, :, None] & keys[:, None])[:, None]
    if cut.heads is not None:
        chosen = torch.zeros(scores.shape[1], dtype=torch.bool, device=scores.device)
        chosen[list(cut.heads)] = True
        hidden = hidden & chosen[:, None, None]
    scores = scores.masked_fill(hidden, -torch.inf)
    blind = (scores <= torch.finfo(scores.dtype).min / 2).all(-1) & hidden.any(-1)
    if bool(blind.any()):
        prompt, _, position = blind.nonzero()[0].tolist()
        raise CircuitsError(
            f"layer {cut.layer}: position {position} of prompt {prompt} of the batch has nothing left to attend to; "
            "cut less"
        )
    return scores


def _mask(*args: Any, allow_is_causal_skip: bool = True, **kwargs: Any) -> Tensor | None:
    """An additive mask, or None where plain causal attention says the same and kernels know it."""
    if allow_is_causal_skip and sdpa_mask(*args, allow_is_causal_skip=True, **kwargs) is None:
        return None
    return eager_mask(*args, **kwargs)


AttentionInterface.register(EXACT, recorded_attention)
AttentionMaskInterface.register(EXACT, eager_mask)
AttentionInterface.register(FAST, recorded_attention)
AttentionMaskInterface.register(FAST, _mask)
AttentionInterface.register(EDITED, edited_attention)
AttentionMaskInterface.register(EDITED, eager_mask)
