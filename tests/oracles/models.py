"""Small random stock models of every family, with every norm gain, bias and multiplier away from its default so
that none is forgotten.

`save(model, folder)` writes the folder that `load_model` reads; `prompts(...)` gives ragged prompts as ids.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

VOCABULARY = 23
WINDOW = 3


@dataclass(frozen=True)
class Shape:
    layers: int
    heads: int
    kv_heads: int
    width: int

    @property
    def ordinary(self) -> dict[str, Any]:
        """The sizes by the names that most families use."""
        return {
            "hidden_size": self.width,
            "intermediate_size": 2 * self.width,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "max_position_embeddings": 16,
        }

    @property
    def layer_types(self) -> list[str]:
        return [("sliding_attention", "full_attention")[layer % 2] for layer in range(self.layers)]


def _rope(theta: float = 10000.0, kind: str = "default", **more: Any) -> dict[str, Any]:
    return {"rope_type": kind, "rope_theta": theta, **more}


def _gpt2(s: Shape) -> dict[str, Any]:
    return {"n_positions": 16, "n_embd": s.width, "n_layer": s.layers, "n_head": s.heads}


def _llama(s: Shape) -> dict[str, Any]:
    return s.ordinary


def _windowed(s: Shape) -> dict[str, Any]:
    return s.ordinary | {"sliding_window": WINDOW}


def _llama3(s: Shape) -> dict[str, Any]:
    """Three wavelengths: one below, one between and one above the limits of the scaling."""
    scaling = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    rope = _rope(125.0, "llama3", original_max_position_embeddings=64, **scaling)
    return s.ordinary | {"head_dim": 6, "rope_parameters": rope, "max_position_embeddings": 512}


def _qwen3(s: Shape) -> dict[str, Any]:
    return s.ordinary | {"head_dim": 6}


def _gemma2(s: Shape) -> dict[str, Any]:
    return s.ordinary | {
        "head_dim": 6,
        "query_pre_attn_scalar": 5,
        "attn_logit_softcapping": 1.5,
        "final_logit_softcapping": 2.0,
        "sliding_window": WINDOW,
        "layer_types": s.layer_types,
    }


def _gemma3(s: Shape) -> dict[str, Any]:
    rope = {"sliding_attention": _rope(10.0), "full_attention": _rope(1000.0, "linear", factor=8.0)}
    return _gemma2(s) | {"rope_parameters": rope, "attn_logit_softcapping": None}


def _phi3(s: Shape) -> dict[str, Any]:
    rope = _rope(partial_rotary_factor=0.5)
    return s.ordinary | {"sliding_window": WINDOW, "rope_parameters": rope, "pad_token_id": 0}


def _granite(s: Shape) -> dict[str, Any]:
    return s.ordinary | {
        "embedding_multiplier": 1.7,
        "residual_multiplier": 0.6,
        "attention_multiplier": 0.4,
        "logits_scaling": 1.3,
        "attention_bias": True,
        "mlp_bias": True,
    }


def _mixtral(s: Shape) -> dict[str, Any]:
    return s.ordinary | {"head_dim": 6, "num_local_experts": 4, "num_experts_per_tok": 2}


def _qwen2_moe(s: Shape) -> dict[str, Any]:
    """A mixture in every layer, next to an expert that all positions share; windows in every other layer."""
    return s.ordinary | {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": s.width,
        "shared_expert_intermediate_size": s.width + 4,
        "norm_topk_prob": False,
        "use_sliding_window": True,
        "sliding_window": WINDOW,
        "layer_types": s.layer_types,
    }


def _qwen3_moe(s: Shape) -> dict[str, Any]:
    """A mixture in every layer but the second."""
    return s.ordinary | {
        "head_dim": 6,
        "num_experts": 5,
        "num_experts_per_tok": 3,
        "moe_intermediate_size": s.width,
        "norm_topk_prob": True,
        "mlp_only_layers": [1],
        "use_sliding_window": True,
        "sliding_window": WINDOW,
        "attention_bias": True,
    }


def _cohere(s: Shape) -> dict[str, Any]:
    return s.ordinary | {"logit_scale": 0.7, "pad_token_id": 0}


def _olmo2(s: Shape) -> dict[str, Any]:
    return s.ordinary | {"pad_token_id": 0}


# In the next families heads fill the width: it follows from a head that is wide enough for two pairs to be turned
# and for something to remain. Most of them know no groups.


def _ungrouped(s: Shape, **more: Any) -> dict[str, Any]:
    return {name: size for name, size in s.ordinary.items() if name != "num_key_value_heads"} | more


def _neox(s: Shape) -> dict[str, Any]:
    rope = _rope(partial_rotary_factor=0.25)
    return _ungrouped(s, hidden_size=16 * s.heads, rope_parameters=rope, use_parallel_residual=True)


def _neox_sequential(s: Shape) -> dict[str, Any]:
    rope = _rope(partial_rotary_factor=0.5)
    return _ungrouped(s, hidden_size=8 * s.heads, rope_parameters=rope, use_parallel_residual=False)


def _gptj(s: Shape) -> dict[str, Any]:
    return _gpt2(s) | {"n_embd": 8 * s.heads, "rotary_dim": 4}


def _phi(s: Shape) -> dict[str, Any]:
    return s.ordinary | {"hidden_size": 8 * s.heads, "rope_parameters": _rope(partial_rotary_factor=0.5)}


def _opt(s: Shape) -> dict[str, Any]:
    return _ungrouped(s, ffn_dim=2 * s.width, word_embed_proj_dim=s.width, pad_token_id=0)


CONFIGS: dict[str, tuple[str, Any]] = {
    "gpt2": ("GPT2Config", _gpt2),
    "llama": ("LlamaConfig", _llama),
    "mistral": ("MistralConfig", _windowed),
    "qwen2": ("Qwen2Config", _llama),
    "llama3": ("LlamaConfig", _llama3),
    "qwen3": ("Qwen3Config", _qwen3),
    "gemma2": ("Gemma2Config", _gemma2),
    "gemma3": ("Gemma3TextConfig", _gemma3),
    "phi3": ("Phi3Config", _phi3),
    "granite": ("GraniteConfig", _granite),
    "mixtral": ("MixtralConfig", _mixtral),
    "qwen2_moe": ("Qwen2MoeConfig", _qwen2_moe),
    "qwen3_moe": ("Qwen3MoeConfig", _qwen3_moe),
    "olmo2": ("Olmo2Config", _olmo2),
    "cohere": ("CohereConfig", _cohere),
    "cohere_qk": ("CohereConfig", lambda s: _cohere(s) | {"use_qk_norm": True}),
    "gpt_neox": ("GPTNeoXConfig", _neox),
    "gpt_neox_sequential": ("GPTNeoXConfig", _neox_sequential),
    "gptj": ("GPTJConfig", _gptj),
    "phi": ("PhiConfig", _phi),
    "opt": ("OPTConfig", _opt),
}
KINDS = tuple(CONFIGS)
# A router's choice jumps where two experts tie. In what the tests compare, with seed 0, the last expert chosen and
# the first left out differ by about 1e-5 or more in probability: far beyond rounding, of float32 too.
MIXTURES = ("mixtral", "qwen2_moe", "qwen3_moe")
UNGROUPED = (
    "gpt2",
    "gpt_neox",
    "gpt_neox_sequential",
    "gptj",
    "opt",
)  # every query head has its own key head
# Kinds with each way to count key and value receivers that differs.
SHAPES = tuple(
    (kind, kv)
    for kind in KINDS
    for kv in ("query_head", "kv_head")
    if kv == "query_head" or kind not in UNGROUPED
)


def build(
    kind: str,
    *,
    layers: int = 2,
    heads: int = 4,
    kv_heads: int = 2,
    width: int = 16,
    scale: float = 1.0,
    seed: int = 0,
    changed: dict[str, Any] | None = None,
) -> nn.Module:
    """A random model in float64, in evaluation mode. `scale` multiplies the spread of all weights; `changed` are
    other values for the config."""
    torch.manual_seed(seed)
    name, arguments = CONFIGS[kind]
    shape = Shape(layers, heads, kv_heads, width)
    given = {"bos_token_id": 0, "eos_token_id": 0, "tie_word_embeddings": False} | arguments(shape)
    config = getattr(transformers, name)(vocab_size=VOCABULARY, **given | (changed or {}))
    model = transformers.AutoModelForCausalLM.from_config(config).double().eval()
    if kind in MIXTURES:
        model.set_experts_implementation("eager")  # the other kernels know no float64
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1 and name.endswith("bias"):
                parameter.copy_(0.2 * torch.randn_like(parameter))
            elif parameter.ndim == 1 or "norm" in name:
                parameter.copy_(1 + 0.3 * torch.randn_like(parameter))
            elif "wte" in name or "wpe" in name or "embed_" in name:
                parameter.copy_(torch.randn_like(parameter))
            else:
                fan_in = parameter.shape[0 if kind == "gpt2" and "lm_head" not in name else -1]
                parameter.copy_(scale * torch.randn_like(parameter) / fan_in**0.5)
    return model.requires_grad_(requires_grad=False)


def save(model: nn.Module, folder: Path) -> str:
    """Writes the model's folder; its name for `load_model`."""
    transformers.utils.logging.disable_progress_bar()  # a bar starts a thread that stays
    model.save_pretrained(folder)
    return str(folder)


@dataclass(frozen=True)
class Prompts:
    """Padded ids [b, T], their mask (None without padding), lengths, and the answers of every prompt."""

    clean: Tensor
    corrupted: Tensor
    mask: Tensor | None
    lengths: list[int]
    answer_pos: list[int]
    answers: list[list[int]]
    wrong: list[list[int]]

    @property
    def real(self) -> Tensor:
        """Boolean [b, T]: what is no padding."""
        return torch.ones_like(self.clean).bool() if self.mask is None else self.mask.bool()


def prompts(
    lengths: list[int], padding: str = "none", seed: int = 0, width: int | None = None, shared: int = 0
) -> Prompts:
    """Random pairs that differ everywhere, padded on the given side with tokens that differ too.

    With `shared` the first tokens of every pair are the same, as many as leave it one that is not, and so is padding.
    """
    generator = torch.Generator().manual_seed(seed)
    total = width or max(lengths)
    if padding == "none" and set(lengths) != {total}:
        raise ValueError("prompts of different lengths need padding")
    clean = torch.randint(1, VOCABULARY, (len(lengths), total), generator=generator)
    corrupted = torch.randint(1, VOCABULARY, (len(lengths), total), generator=generator)
    mask = torch.ones(len(lengths), total, dtype=torch.long)
    answer_pos = []
    for row, length in enumerate(lengths):
        if padding == "left":
            mask[row, : total - length] = 0
        else:
            mask[row, length:] = 0
        if shared:
            first = total - length if padding == "left" else 0
            start, differ = first + min(shared, length - 1), first + length
            corrupted[row, :start], corrupted[row, differ:] = clean[row, :start], clean[row, differ:]
        answer_pos.append(total - 1 if padding == "left" else length - 1)
    answers, wrong = [], []
    for row in range(len(lengths)):
        order = torch.randperm(VOCABULARY, generator=generator).tolist()
        answers.append(order[: 1 + row % 3])
        wrong.append(order[5 : 6 + row % 2])
    return Prompts(clean, corrupted, None if padding == "none" else mask, lengths, answer_pos, answers, wrong)
