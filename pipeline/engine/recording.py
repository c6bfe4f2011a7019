"""Hooks on the stock model: what every part reads and writes while a forward pass runs, as the model made it.

Knows hooks and the attention name, which is global state on the model's config; both live in a context manager.
Does not know canonical shapes (`capture` does), graphs or patching. Embeddings, masks, windows and position tables are
never re-implemented: they are taken from the forward pass in which the model uses them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.engine.attending import EXACT, FAST, RECORDER, Recorder, heads_first, recorded_attention
from pipeline.engine.batch import Batch
from pipeline.engine.prefix import Prefix
from pipeline.engine.products import quick_modules
from pipeline.models.adapters import Block, Parts
from pipeline.models.lengths import each_prompt_alone
from pipeline.models.stock import PreTrainedModel


@contextmanager
def recording(
    model: PreTrainedModel,
    parts: Parts,
    *,
    exact: bool,
    frozen: bool = False,
    prefix: Prefix | None = None,
) -> Iterator[list[dict[str, Any]]]:
    """While open, every forward of `model` fills one dict per layer, and one more for the final norm.

    Keys: resid q k v mask scaling softcap rotary z attn_raw mlp_in mlp, `mid` where the MLP has a norm of its
    own, q_raw and k_raw where there are norms of them; `final` in the last. `mlp_in` is a view of its own, so
    that its gradient is that of the MLP alone where it shares a norm with attention. With `frozen` patterns gradients
    reach values alone. With a `prefix` the columns after it are run, which attend to those in it. Hooks are removed and
    the model's attention restored on the way out, also after an exception.
    """
    pasts = [None] * len(parts.blocks) if prefix is None else prefix.layers
    recorders = [Recorder(exact, frozen, past) for past in pasts]
    last: dict[str, Any] = {}
    handles = []
    before = model.config._attn_implementation  # noqa: SLF001 - the documented setter validates against the hub
    try:
        model.config._attn_implementation = EXACT if exact else FAST  # noqa: SLF001
        for block, recorder in zip(parts.blocks, recorders, strict=True):
            setattr(block.attn, RECORDER, recorder)
            handles += _record_block(block, recorder.values)
            if block.family.own_attention:
                block.attn._attn = partial(heads_first(recorded_attention), block.attn)  # type: ignore[assignment]  # noqa: SLF001
        handles.append(parts.final_norm.register_forward_pre_hook(_keep_input(last, "final")))
        yield [*(recorder.values for recorder in recorders), last]
    finally:
        for handle in handles:
            handle.remove()
        for block in parts.blocks:
            for name in (RECORDER, "_attn"):
                if name in block.attn.__dict__:
                    delattr(block.attn, name)
        model.config._attn_implementation = before  # noqa: SLF001


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
    """The stock decoder without its unembedding: hidden states after the final norm. Every prompt is treated as it is
    alone, whatever the lengths of its neighbours."""
    mask = batch.attention_mask
    if mask.is_floating_point():
        mask = mask.to(model.dtype).clamp(min=torch.finfo(model.dtype).min)
    table: Tensor = model.get_input_embeddings().weight
    quick = quick_modules(table, ids.numel() * table.shape[-1] ** 2)
    with each_prompt_alone(parts.rotary_by_length), quick:
        outputs = parts.base(
            input_ids=ids, attention_mask=mask, position_ids=batch.position_ids, use_cache=False
        )
    return outputs.last_hidden_state
