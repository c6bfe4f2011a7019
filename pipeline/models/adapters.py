"""Where the parts of a stock Hugging Face decoder are. Add a family: one row in `FAMILIES`.

Knows module paths and weight layouts. Does not know graphs, patching or how a forward pass is composed beyond
its parts; whatever it gets wrong, the self-check at load finds (`pipeline.engine.selfcheck`).

Weights are *views*, `[head, d_head, d_model]` for q, k, v and `[head, d_head, d_model]` for the output
projection, so that one head can be computed alone without a copy of anything.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from pipeline.core.errors import ModelError
from pipeline.models.families import Family, family_of

Port = Literal["q", "k", "v"]


@dataclass(frozen=True)
class Block:
    """The parts of one decoder block, with weight views per head."""

    layer: int
    module: nn.Module
    norm1: nn.Module
    attn: nn.Module
    out: nn.Module
    norm2: nn.Module
    mlp: nn.Module
    weights: dict[Port, Float[Tensor, "head d_head d_model"]]
    biases: dict[Port, Float[Tensor, "head d_head"] | None]
    out_weight: Float[Tensor, "head d_head d_model"]

    @property
    def n_heads(self) -> int:
        return self.weights["q"].shape[0]

    @property
    def kv_group(self) -> int:
        """How many query heads share one key-value head."""
        return self.n_heads // self.weights["k"].shape[0]

    @cached_property
    def rotary(self) -> Callable[..., tuple[Tensor, Tensor]] | None:
        """The family's own rotary function, from the module in which its attention is defined."""
        return getattr(sys.modules[type(self.attn).__module__], "apply_rotary_pos_emb", None)


@dataclass(frozen=True)
class Parts:
    """The parts of a decoder: its blocks, the final norm and the unembedding."""

    base: nn.Module
    blocks: tuple[Block, ...]
    final_norm: nn.Module
    unembedding: Float[Tensor, "vocab d_model"]
    unembedding_bias: Float[Tensor, " vocab"] | None


def find_parts(model: PreTrainedModel) -> Parts:
    """The parts of a loaded model; ModelError when its layout is not what its family's row says."""
    family = family_of(model.config)
    base = model.base_model
    try:
        modules = list(base.get_submodule(family.blocks).children())
        blocks = tuple(_block(family, model, layer, module) for layer, module in enumerate(modules))
        head = model.get_output_embeddings()
        return Parts(
            base, blocks, base.get_submodule(family.final_norm), head.weight, getattr(head, "bias", None)
        )
    except AttributeError as error:
        raise ModelError(
            f"{model.config.model_type}: the modules are not where they are expected ({error})"
        ) from None


def _block(family: Family, model: PreTrainedModel, layer: int, module: nn.Module) -> Block:
    config = model.config
    n_heads = config.num_attention_heads
    n_kv = getattr(config, "num_key_value_heads", None) or n_heads
    attn = module.get_submodule(family.attn)
    counts: dict[Port, int] = {"q": n_heads, "k": n_kv, "v": n_kv}
    weights: dict[Port, Tensor] = {}
    biases: dict[Port, Tensor | None] = {}
    if family.fused is not None:
        weight, bias = _dense(attn.get_submodule(family.fused))
        d_head = weight.shape[0] // sum(counts.values())
        sizes = [n * d_head for n in counts.values()]
        rows = weight.split(sizes)
        bias_rows = [None] * 3 if bias is None else list(bias.split(sizes))
        for (port, n), row, bias_row in zip(counts.items(), rows, bias_rows, strict=True):
            weights[port] = row.view(n, d_head, -1)
            biases[port] = None if bias_row is None else bias_row.view(n, d_head)
    else:
        for port, n in counts.items():
            weight, bias = _dense(attn.get_submodule(family.projections[port]))
            weights[port] = weight.view(n, weight.shape[0] // n, -1)
            biases[port] = None if bias is None else bias.view(n, -1)
    out = attn.get_submodule(family.out)
    out_weight = _dense(out)[0].t()
    return Block(
        layer=layer,
        module=module,
        norm1=module.get_submodule(family.norm1),
        attn=attn,
        out=out,
        norm2=module.get_submodule(family.norm2),
        mlp=module.get_submodule(family.mlp),
        weights=weights,
        biases=biases,
        out_weight=out_weight.view(n_heads, -1, out_weight.shape[1]),
    )


def _dense(module: nn.Module) -> tuple[Float[Tensor, "out in"], Float[Tensor, " out"] | None]:
    """Weight as `[out, in]` and bias of a plain linear layer; refuses what has no dense weight at hand."""
    weight = getattr(module, "weight", None)
    if not isinstance(module, nn.Linear | Conv1D) or not isinstance(weight, Tensor) or weight.is_meta:
        raise ModelError(
            f"a projection is a {type(module).__name__}, not a plain linear layer on a device: load the model "
            "without quantisation, adapters and offloading"
        )
    if weight.dtype not in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        raise ModelError(
            f"projection weights are {weight.dtype}; load the model as float32, bfloat16 or float64"
        )
    return (weight.t() if isinstance(module, Conv1D) else weight), module.bias
