"""Where the parts of a stock Hugging Face decoder are. Add a family: one row in `FAMILIES`.

Knows module paths and weight layouts. Does not know graphs, patching or how a forward pass is composed of its
parts; whatever it gets wrong, the self-check at load finds (`pipeline.engine.selfcheck`).

Weights are *views*, `[head, d_head, d_model]` for q, k, v and for the output projection, so that one head can
be computed alone without a copy of anything. Where accelerate keeps a layer's weights off its device they are
gathered when they are asked for (`pipeline.models.dense`).
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.core.errors import ModelError
from pipeline.models.dense import Dense, Gathered, Port, Projections, device_of, is_offloaded
from pipeline.models.families import Family, PostNorm, family_of
from pipeline.models.lengths import rotary_by_length
from pipeline.models.rotary import gptj_rotary, gptj_tables
from pipeline.models.stock import PreTrainedModel

__all__ = ["Block", "Parts", "Port", "find_parts"]


@dataclass(frozen=True)
class Block:
    """The parts of one decoder block.

    `norm1` and `norm2` are what attention and MLP read through (an Identity where there is none), `post_attn`
    and `post_mlp` the norms of what they write; `mlp_in` and `mlp_out` are the first and last module of the MLP.
    `mixed` says that heads write what their projection makes and that each reader norms the sum (`PostNorm`).
    """

    layer: int
    family: Family
    module: nn.Module
    norm1: nn.Module
    attn: nn.Module
    out: nn.Module
    norm2: nn.Module
    mlp: Callable[[Tensor], Any]
    mlp_in: nn.Module
    mlp_out: nn.Module
    q_norm: nn.Module | None
    k_norm: nn.Module | None
    post_attn: nn.Module | None
    post_mlp: nn.Module | None
    n_heads: int
    n_kv_heads: int
    multiplier: float
    parallel: bool
    dense: Dense
    mixed: bool = False

    # --- weights -----------------------------------------------------------------------------------------

    @property
    def projections(self) -> Projections:
        """The weights of q, k, v and of the output projection, per head."""
        return self.dense.projections()

    @property
    def device(self) -> torch.device:
        """Where this block computes."""
        return self.dense.device

    @property
    def kv_group(self) -> int:
        """How many query heads share one key-value head."""
        return self.n_heads // self.n_kv_heads

    # --- what is unusual ---------------------------------------------------------------------------------

    @property
    def joint_qk(self) -> bool:
        """Whether q and k are normed over all heads at once."""
        return self.family.norm_over == "layer" and self.q_norm is not None

    @property
    def coupled(self) -> bool:
        """Whether what one head writes depends on the other heads of its layer."""
        return self.normed_apart or self.joint_qk

    @property
    def normed_apart(self) -> bool:
        """Whether what one head writes is its share behind the norm of all heads of its run."""
        return self.post_attn is not None and not self.mixed

    @property
    def q_scale(self) -> float:
        """What q is multiplied by before attention."""
        return float(self.attn.scaling) if self.family.scales_q else 1.0  # type: ignore[arg-type]

    @property
    def post_eps(self) -> float:
        """The epsilon of the norm of what attention writes."""
        norm = self.post_attn
        return float(getattr(norm, "variance_epsilon", getattr(norm, "eps", 0.0)))

    @property
    def post_gain(self) -> Float[Tensor, " d_model"] | None:
        """The gain of that norm, or None where it is no part of what a head writes."""
        if self.post_attn is None or self.mixed:
            return None
        return self.dense.tensor(self.post_attn, "weight") + self.family.gain_offset

    @property
    def out_bias(self) -> Float[Tensor, " d_model"] | None:
        """The bias of attention's output projection, which belongs to no head; None where there is none."""
        return None if self.out.bias is None else self.dense.tensor(self.out, "bias")

    def added(self, raw: Float[Tensor, "*lead d_model"]) -> Float[Tensor, "*lead d_model"]:
        """What attention adds to the residual stream, given what its output projection made."""
        if self.post_attn is not None:
            raw = self.post_attn(raw)
        return raw if self.multiplier == 1.0 else raw * self.multiplier

    @cached_property
    def rotary(self) -> Callable[..., tuple[Tensor, Tensor]] | None:
        """The family's own rotary function, from the module in which its attention is defined."""
        if self.family.own_attention:
            return gptj_rotary
        return getattr(sys.modules[type(self.attn).__module__], "apply_rotary_pos_emb", None)

    def rotary_tables(self, kwargs: dict[str, Any]) -> tuple[Tensor, Tensor] | None:
        """cos and sin of the rotary embedding from the keyword arguments of the block's forward."""
        if self.family.own_attention:
            return gptj_tables(self.attn, kwargs["position_ids"])
        tables: tuple[Tensor, Tensor] | None = kwargs.get("position_embeddings")
        return tables


@dataclass(frozen=True)
class Head:
    """The map from final hidden states to logits: weight, bias, and what the model does to the product."""

    module: nn.Module
    scale: float
    softcap: float | None


@dataclass(frozen=True)
class Parts:
    """The parts of a decoder: its blocks, the final norm and the unembedding."""

    base: nn.Module
    blocks: tuple[Block, ...]
    final_norm: nn.Module
    head: Head
    head_dense: Dense
    post_norm: PostNorm = "mixed"

    @property
    def device(self) -> torch.device:
        """Where logits are computed."""
        return self.head_dense.device

    @cached_property
    def norm_device(self) -> torch.device:
        """Where the final norm computes."""
        return device_of(self.final_norm)

    @cached_property
    def rotary_by_length(self) -> tuple[nn.Module, ...]:
        """Rotary modules that look at the longest prompt of a call (`pipeline.models.lengths`)."""
        return rotary_by_length(self.base)

    @cached_property
    def unembedding(self) -> Float[Tensor, "vocab d_model"]:
        return self.head_dense.tensor(self.head.module, "weight")

    @cached_property
    def unembedding_bias(self) -> Float[Tensor, " vocab"] | None:
        if getattr(self.head.module, "bias", None) is None:
            return None
        return self.head_dense.tensor(self.head.module, "bias")

    @property
    def offloaded(self) -> bool:
        """Whether some weights wait on another device, or on disk, until their layer runs."""
        return any(is_offloaded(module) for module in self.base.modules())


def find_parts(model: PreTrainedModel, post_norm: PostNorm = "mixed") -> Parts:
    """The parts of a loaded model; ModelError when its layout is not what its family's row says."""
    family, config = family_of(model.config), model.config
    base = model.base_model
    try:
        modules = list(base.get_submodule(family.blocks).children())
        held = Gathered()
        mixed = post_norm != "own" and family.post_attn is not None
        blocks = tuple(_block(family, config, i, module, held, mixed) for i, module in enumerate(modules))
        final_norm = base.get_submodule(family.final_norm)
    except AttributeError as error:
        raise ModelError(
            f"{config.model_type}: the modules are not where they are expected ({error})"
        ) from None
    scale = getattr(config, family.logit_multiplier) if family.logit_multiplier else 1.0
    if family.logit_divisor:
        scale = scale / getattr(config, family.logit_divisor)
    softcap = getattr(config, family.logit_softcap, None) if family.logit_softcap else None
    head = model.get_output_embeddings()
    return Parts(
        base, blocks, final_norm, Head(head, float(scale), softcap), Dense(device_of(head)), post_norm
    )


def _block(family: Family, config: Any, layer: int, module: nn.Module, held: Gathered, mixed: bool) -> Block:
    n_heads = config.num_attention_heads
    n_kv = getattr(config, "num_key_value_heads", None) or n_heads
    attn = module.get_submodule(family.attn)
    mlp = [module.get_submodule(name) for name in family.mlp]

    def optional(owner: nn.Module, name: str | None) -> nn.Module | None:
        return getattr(owner, name, None) if name else None

    def read_through(name: str | None) -> nn.Module:
        return nn.Identity() if name is None else module.get_submodule(name)

    multiplier = getattr(config, family.residual_multiplier) if family.residual_multiplier else 1.0
    return Block(
        layer=layer,
        family=family,
        module=module,
        norm1=read_through(family.norm1),
        attn=attn,
        out=attn.get_submodule(family.out),
        norm2=read_through(family.norm2),
        mlp=mlp[0] if len(mlp) == 1 else nn.Sequential(*mlp),
        mlp_in=mlp[0],
        mlp_out=mlp[-1],
        q_norm=optional(attn, family.q_norm),
        k_norm=optional(attn, family.k_norm),
        post_attn=optional(module, family.post_attn),
        post_mlp=optional(module, family.post_mlp),
        n_heads=n_heads,
        n_kv_heads=n_kv,
        multiplier=float(multiplier),
        parallel=family.is_parallel(config),
        dense=Dense.of_attention(family, attn, n_heads, n_kv, held),
        mixed=mixed,
    )
