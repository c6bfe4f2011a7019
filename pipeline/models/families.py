"""The table of supported model families: a row says where the parts of a decoder block are.

Knows names only, so that planning can refuse a model before any weight is read. Loads without torch.
"""

from dataclasses import dataclass, field
from typing import Any

from pipeline.core.errors import ModelError


@dataclass(frozen=True)
class Family:
    """Module paths inside the base model (`blocks`, `final_norm`) and inside of a block (the rest).

    `fused` is a projection that holds q, k and v one after the other; otherwise `projections` names the three.
    """

    model_types: tuple[str, ...]
    blocks: str
    final_norm: str
    norm1: str
    attn: str
    out: str
    norm2: str
    mlp: str
    fused: str | None = None
    projections: dict[str, str] = field(default_factory=lambda: {"q": "q_proj", "k": "k_proj", "v": "v_proj"})


FAMILIES: tuple[Family, ...] = (
    Family(
        model_types=("gpt2",),
        blocks="h",
        final_norm="ln_f",
        norm1="ln_1",
        attn="attn",
        out="c_proj",
        norm2="ln_2",
        mlp="mlp",
        fused="c_attn",
    ),
    Family(
        model_types=("llama", "mistral", "qwen2"),
        blocks="layers",
        final_norm="norm",
        norm1="input_layernorm",
        attn="self_attn",
        out="o_proj",
        norm2="post_attention_layernorm",
        mlp="mlp",
    ),
)


def family_of(config: Any) -> Family:
    """The row of a transformers config; ModelError, naming what is supported, when there is none."""
    for family in FAMILIES:
        if config.model_type in family.model_types and not getattr(config, "add_cross_attention", False):
            return family
    supported = ", ".join(t for family in FAMILIES for t in family.model_types)
    raise ModelError(f"architecture {config.model_type!r} is not supported; supported: {supported}")
