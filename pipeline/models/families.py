"""The table of supported model families: a row says where the parts of a decoder block are, and what is unusual
about them.

Knows names and flags only, so that planning can refuse a model before any weight is read. Loads without torch.
What a row gets wrong, the self-check at load finds (`pipeline.engine.selfcheck`).
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from pipeline.core.errors import ModelError

# What a head writes where a norm follows attention: `own`, its share in its own run, z W_O gain / rms(sum of its run);
# `mixed`, z W_O, and whoever reads norms the sum of what it reads of the layer, kept heads and exchanged ones; `mib`,
# as `mixed`, but attribution multiplies its gradients by the change in front of that norm, as EAP-IG and MIB do.
PostNorm = Literal["mixed", "own", "mib"]


@dataclass(frozen=True)
class Family:
    """Module paths inside the base model (`blocks`, `final_norm`) and inside of a block (the rest).

    A norm that is None is not there: that part reads the residual stream as it is. `norm2` equal to `norm1`
    is one norm that attention and MLP share. `mlp` names one module, or several that run one after the other.
    """

    model_types: tuple[str, ...]
    blocks: str
    final_norm: str
    norm1: str | None
    attn: str
    out: str
    norm2: str | None
    mlp: tuple[str, ...] = ("mlp",)
    gated: bool = True  # the MLP has three matrices, one of them a gate; or two

    # q, k and v: separate projections, or one that holds them `concat`enated or `interleaved` per head.
    projections: dict[str, str] = field(default_factory=lambda: {"q": "q_proj", "k": "k_proj", "v": "v_proj"})
    fused: str | None = None
    fused_layout: Literal["concat", "interleaved"] = "concat"
    # Norms of q and k before the rotary embedding, where the attention has them: of every head by itself, or of
    # the whole projection at once, which couples the heads of a layer.
    q_norm: str = "q_norm"
    k_norm: str = "k_norm"
    norm_over: Literal["head", "layer"] = "head"
    # The model scales q itself, before attention, by the attention's `scaling`.
    scales_q: bool = False
    # The attention is a method `_attn(q, k, v, mask)` of the module instead of transformers' interface.
    own_attention: bool = False

    # Norms of what attention and MLP write. `gain_offset` is added to the norm's weight.
    post_attn: str | None = None
    post_mlp: str | None = None
    gain_offset: float = 0.0

    # Attention and MLP read the same residual: always, or when this field of the config says so.
    parallel: bool | str = False
    # Fields of the config: what multiplies the outputs of attention and MLP; logits; what divides them; what caps them.
    residual_multiplier: str | None = None
    logit_multiplier: str | None = None
    logit_divisor: str | None = None
    logit_softcap: str | None = None
    # Values that the config must have; anything else is another architecture under the same name.
    requires: dict[str, Any] = field(default_factory=dict)

    def is_parallel(self, config: Any) -> bool:
        """Whether attention and MLP of a block read the same residual."""
        return bool(getattr(config, self.parallel)) if isinstance(self.parallel, str) else self.parallel


_LLAMA: dict[str, Any] = {
    "blocks": "layers",
    "final_norm": "norm",
    "norm1": "input_layernorm",
    "attn": "self_attn",
    "out": "o_proj",
    "norm2": "post_attention_layernorm",
}
_GEMMA = _LLAMA | {
    "norm2": "pre_feedforward_layernorm",
    "post_attn": "post_attention_layernorm",
    "post_mlp": "post_feedforward_layernorm",
    "gain_offset": 1.0,
    "logit_softcap": "final_logit_softcapping",
}

FAMILIES: tuple[Family, ...] = (
    Family(
        model_types=("gpt2",),
        gated=False,
        blocks="h",
        final_norm="ln_f",
        norm1="ln_1",
        attn="attn",
        out="c_proj",
        norm2="ln_2",
        fused="c_attn",
    ),
    Family(model_types=("llama", "mistral", "qwen2", "qwen3", "mixtral", "qwen2_moe", "qwen3_moe"), **_LLAMA),
    Family(model_types=("phi3",), **_LLAMA, fused="qkv_proj"),
    Family(
        model_types=("granite",),
        **_LLAMA,
        residual_multiplier="residual_multiplier",
        logit_divisor="logits_scaling",
    ),
    Family(model_types=("gemma2", "gemma3_text"), **_GEMMA),
    Family(
        model_types=("olmo2",),
        **_LLAMA | {"norm1": None, "norm2": None},
        norm_over="layer",
        post_attn="post_attention_layernorm",
        post_mlp="post_feedforward_layernorm",
    ),
    Family(
        model_types=("cohere",),
        **_LLAMA | {"norm2": "input_layernorm"},
        parallel=True,
        logit_multiplier="logit_scale",
    ),
    Family(
        model_types=("gpt_neox",),
        gated=False,
        blocks="layers",
        final_norm="final_layer_norm",
        norm1="input_layernorm",
        attn="attention",
        out="dense",
        norm2="post_attention_layernorm",
        fused="query_key_value",
        fused_layout="interleaved",
        parallel="use_parallel_residual",
    ),
    Family(
        model_types=("gptj",),
        gated=False,
        blocks="h",
        final_norm="ln_f",
        norm1="ln_1",
        attn="attn",
        out="out_proj",
        norm2="ln_1",
        own_attention=True,
        parallel=True,
    ),
    Family(
        model_types=("opt",),
        gated=False,
        blocks="decoder.layers",
        final_norm="decoder.final_layer_norm",
        norm1="self_attn_layer_norm",
        attn="self_attn",
        out="out_proj",
        norm2="final_layer_norm",
        mlp=("fc1", "activation_fn", "fc2"),
        scales_q=True,
        requires={"do_layer_norm_before": True, "_remove_final_layer_norm": False},
    ),
    Family(
        model_types=("phi",),
        gated=False,
        blocks="layers",
        final_norm="final_layernorm",
        norm1="input_layernorm",
        attn="self_attn",
        out="dense",
        norm2="input_layernorm",
        parallel=True,
        requires={"qk_layernorm": False},
    ),
)


def family_of(config: Any) -> Family:
    """The row of a transformers config; ModelError, naming what is supported, when there is none."""
    for family in FAMILIES:
        if config.model_type in family.model_types and not getattr(config, "add_cross_attention", False):
            for name, value in family.requires.items():
                if (found := getattr(config, name, value)) != value:
                    raise ModelError(
                        f"{config.model_type} models with {name}: {found} are not supported (only {name}: {value}); "
                        "choose another model of this family"
                    )
            return family
    supported = ", ".join(t for family in FAMILIES for t in family.model_types)
    raise ModelError(f"architecture {config.model_type!r} is not supported; supported: {supported}")
