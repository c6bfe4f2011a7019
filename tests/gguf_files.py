"""Small GGUF files, written by the package that defines them, of a stock Llama whose weights are at hand.

Knows how llama.cpp lays weights out. Skips whoever imports it where the package is not installed.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.tokenizers import tokenizer

gguf = pytest.importorskip("gguf", reason="the package gguf, which writes such files, is not installed")

LAYERS, HEADS, KV_HEADS, WIDTH, INNER = 2, 4, 2, 64, 96
_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def vocabulary() -> tuple[dict[str, int], list[Any]]:
    """Tokens and merges of a byte-level tokenizer."""
    model = json.loads(tokenizer("byte").backend_tokenizer.to_str())["model"]
    return model["vocab"], model["merges"]


def stock() -> Any:
    """A random Llama with gains away from one."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary()[0]),
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        max_position_embeddings=64,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(torch.randn_like(value) * 0.2 + (value.ndim == 1))
    return model.eval()


def write(
    path: Path,
    model: Any,
    *,
    kind: str = "F32",
    architecture: str = "llama",
    tensors: dict[str, np.ndarray] | None = None,
    fields: dict[str, str] | None = None,
    without: str | None = None,
) -> Path:
    """The file of a model, its matrices in `kind`; further tensors, further fields, or a tensor that is left out."""
    config = model.config
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    tokens, merges = vocabulary()
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(sorted(tokens, key=tokens.__getitem__))
    writer.add_token_types([3] * 5 + [1] * (len(tokens) - 5))
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    for key, value in (fields or {}).items():
        writer.add_string(key, value)
    for name, value in model.state_dict().items():
        written = _name(name)
        if written != without:
            _add(writer, written, _laid_out(name, value.numpy(), config), kind)
    for name, value in (tensors or {}).items():
        writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _name(name: str) -> str:
    whole = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
    }
    if name in whole:
        return whole[name]
    _, _, layer, part = name.split(".", 3)
    return f"blk.{layer}.{_NAMES[part.removesuffix('.weight')]}.weight"


def _laid_out(name: str, value: np.ndarray, config: Any) -> np.ndarray:
    """Rows of queries and keys in the order of llama.cpp, whose rotations turn neighbours."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for part, n in heads.items():
        if part in name:
            return value.reshape(n, 2, -1, value.shape[1]).swapaxes(1, 2).reshape(value.shape)
    return value


def _add(writer: Any, name: str, value: np.ndarray, kind: str) -> None:
    if value.ndim == 1 or kind == "F32":
        writer.add_tensor(name, value)
        return
    quantised = gguf.GGMLQuantizationType[kind]
    writer.add_tensor(name, gguf.quants.quantize(value, quantised), raw_dtype=quantised)
