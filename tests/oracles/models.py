"""Small random stock models, with every norm gain and bias away from its default so that none is forgotten.

`save(kind, folder)` writes the folder that `load_model` reads; `pairs(...)` gives ragged prompts as ids.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from torch import Tensor, nn

KINDS = ("gpt2", "llama", "mistral", "qwen2")
VOCABULARY = 23
WINDOW = 3


def build(
    kind: str,
    *,
    layers: int = 2,
    heads: int = 4,
    kv_heads: int = 2,
    width: int = 16,
    scale: float = 1.0,
    seed: int = 0,
) -> nn.Module:
    """A random model in float64, in evaluation mode. `scale` multiplies the spread of all weights."""
    torch.manual_seed(seed)
    if kind == "gpt2":
        config = transformers.GPT2Config(
            vocab_size=VOCABULARY, n_positions=16, n_embd=width, n_layer=layers, n_head=heads,
            bos_token_id=0, eos_token_id=0, tie_word_embeddings=False,
        )  # fmt: skip
    else:
        classes = {
            "llama": transformers.LlamaConfig,
            "mistral": transformers.MistralConfig,
            "qwen2": transformers.Qwen2Config,
        }
        extra = {"sliding_window": WINDOW} if kind == "mistral" else {}
        config = classes[kind](
            vocab_size=VOCABULARY, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers,
            num_attention_heads=heads, num_key_value_heads=kv_heads, max_position_embeddings=16,
            bos_token_id=0, eos_token_id=0, tie_word_embeddings=False, **extra,
        )  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_config(config).double().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1 and not name.endswith("bias"):
                parameter.copy_(1 + 0.3 * torch.randn_like(parameter))
            elif parameter.ndim == 1:
                parameter.copy_(0.2 * torch.randn_like(parameter))
            elif "wte" in name or "wpe" in name or "embed_tokens" in name:
                parameter.copy_(torch.randn_like(parameter))
            else:
                fan_in = parameter.shape[0 if kind == "gpt2" and "lm_head" not in name else 1]
                parameter.copy_(scale * torch.randn_like(parameter) / fan_in**0.5)
    return model.requires_grad_(requires_grad=False)


def save(model: nn.Module, folder: Path) -> str:
    """Writes the model's folder; its name for `load_model`."""
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


def prompts(lengths: list[int], padding: str = "none", seed: int = 0, width: int | None = None) -> Prompts:
    """Random pairs that differ everywhere, padded on the given side with tokens that differ too."""
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
        answer_pos.append(total - 1 if padding == "left" else length - 1)
    answers, wrong = [], []
    for row in range(len(lengths)):
        order = torch.randperm(VOCABULARY, generator=generator).tolist()
        answers.append(order[: 1 + row % 3])
        wrong.append(order[5 : 6 + row % 2])
    return Prompts(clean, corrupted, None if padding == "none" else mask, lengths, answer_pos, answers, wrong)
