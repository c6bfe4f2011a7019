"""Llama and what differs from it in one thing only: Mistral, Qwen 2 and 3, Phi-3, Granite.

RMSNorm, rotary positions, key-value heads that several query heads share, a gated MLP.
"""

import math

import torch
from torch import Tensor

from tests.oracles.families.base import ACTIVATIONS, Family, inverse_wavelengths, rotated_halves


class Llama(Family):
    """Llama with or without a rotary scaling; Mistral, by its window; Qwen 2, by its biases."""

    def embed(self, ids: Tensor, positions: Tensor) -> Tensor:
        return self.weights["model.embed_tokens.weight"][ids]

    def norm(self, x: Tensor, name: str) -> Tensor:
        return self.weights[f"{name}.weight"] * self.scaled_to_rms_one(x, self.config.rms_norm_eps)

    def before_attention(self, layer: int, x: Tensor) -> Tensor:
        return self.norm(x, f"model.layers.{layer}.input_layernorm")

    def projection(self, layer: int, port: str) -> tuple[Tensor, Tensor | None]:
        name = f"model.layers.{layer}.self_attn.{port}_proj"
        return self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias")

    def rotate(self, layer: int, y: Tensor, positions: Tensor) -> Tensor:
        return rotated_halves(y, *self.tables(layer, positions))

    def tables(self, layer: int, positions: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin [b, T, frequencies], of every prompt as it would be alone."""
        rope, lengths = self.rope(layer), (positions.amax(1) + 1).tolist()
        inverse = torch.stack([self.inverse(rope, length) for length in lengths])[:, None]
        return self.angles(positions, inverse, self.rotary_size(rope))

    def rope(self, layer: int) -> dict:
        return self.config.rope_parameters

    def rotary_size(self, rope: dict) -> float:
        """What cos and sin are multiplied by."""
        if rope["rope_type"] != "longrope":
            return 1.0
        original = rope["original_max_position_embeddings"]
        return math.sqrt(1 + math.log(self.config.max_position_embeddings / original) / math.log(original))

    def inverse(self, rope: dict, length: int) -> Tensor:
        """Inverse wavelengths / 2 pi in a prompt of this length, scaled as the config says."""
        rotated, theta = int(self.d_head * rope.get("partial_rotary_factor", 1)), rope["rope_theta"]
        if rope["rope_type"] == "dynamic" and length > (limit := self.config.max_position_embeddings):
            # rounded as the stock model does, which counts lengths in a tensor
            stretch = rope["factor"] * torch.tensor(length) / limit - (rope["factor"] - 1)
            return inverse_wavelengths(theta * stretch ** (rotated / (rotated - 2)), rotated)
        inverse = inverse_wavelengths(theta, rotated)
        if rope["rope_type"] == "dynamic":
            return inverse
        if rope["rope_type"] == "longrope":
            is_long = length > rope["original_max_position_embeddings"]
            return 1 / (torch.tensor(rope["long_factor" if is_long else "short_factor"]) / inverse)
        if rope["rope_type"] == "default":
            return inverse
        if rope["rope_type"] == "linear":
            return inverse / rope["factor"]
        if rope["rope_type"] == "llama3":
            return torch.stack([_llama3(f, rope) for f in inverse])
        raise NotImplementedError(rope["rope_type"])

    def window(self, layer: int) -> int | None:
        has_window = self.config.model_type in ("mistral", "phi3", "mixtral")
        return self.config.sliding_window if has_window else None

    def output(self, layer: int) -> tuple[Tensor, Tensor | None]:
        name = f"model.layers.{layer}.self_attn.o_proj"
        return self.weights[f"{name}.weight"].T, self.weights.get(f"{name}.bias")

    def mlp(self, layer: int, x: Tensor) -> Tensor:
        return self.gated(layer, self.norm(x, f"model.layers.{layer}.post_attention_layernorm"))

    def gated(self, layer: int, x: Tensor) -> Tensor:
        name, act = f"model.layers.{layer}.mlp", ACTIVATIONS[self.activation]
        hidden = act(self.linear(x, f"{name}.gate_proj")) * self.linear(x, f"{name}.up_proj")
        return self.linear(hidden, f"{name}.down_proj")

    @property
    def activation(self) -> str:
        return self.config.hidden_act

    def logits(self, x: Tensor) -> Tensor:
        return self.linear(self.norm(x, "model.norm"), "lm_head")


def _llama3(frequency: Tensor, rope: dict) -> Tensor:
    """Long waves are stretched by the factor, short ones are kept, those between are interpolated."""
    factor, low, high = rope["factor"], rope["low_freq_factor"], rope["high_freq_factor"]
    length = rope["original_max_position_embeddings"]
    wavelength = 2 * math.pi / frequency
    if wavelength < length / high:
        return frequency
    if wavelength > length / low:
        return frequency / factor
    kept = (length / wavelength - low) / (high - low)
    return (1 - kept) * frequency / factor + kept * frequency


class Qwen3(Llama):
    """q and k of every head are normed by themselves, with one gain for all heads."""

    def qk_norm(self, layer: int, port: str, y: Tensor, owner: list[int]) -> Tensor:
        return self.norm(y, f"model.layers.{layer}.self_attn.{port}_norm")


class Phi3(Llama):
    """q, k and v lie one after the other in one matrix, and so do the two halves of the gated MLP."""

    def projection(self, layer: int, port: str) -> tuple[Tensor, Tensor | None]:
        rows = {"q": self.heads * self.d_head, "k": self.groups * self.d_head, "v": self.groups * self.d_head}
        first = sum(rows[p] for p in "qkv"["qkv".index("q") : "qkv".index(port)])
        weight = self.weights[f"model.layers.{layer}.self_attn.qkv_proj.weight"]
        return weight[first : first + rows[port]], None

    def gated(self, layer: int, x: Tensor) -> Tensor:
        name, act = f"model.layers.{layer}.mlp", ACTIVATIONS[self.activation]
        gate, up = self.linear(x, f"{name}.gate_up_proj").chunk(2, -1)
        return self.linear(act(gate) * up, f"{name}.down_proj")


class Granite(Llama):
    """Fixed numbers multiply the embeddings, the scores and what attention and MLP write; one divides logits."""

    def embed(self, ids: Tensor, positions: Tensor) -> Tensor:
        return super().embed(ids, positions) * self.config.embedding_multiplier

    def scale(self, layer: int) -> float:
        return self.config.attention_multiplier

    def written(self, layer: int, o: Tensor) -> Tensor:
        return o * self.config.residual_multiplier

    def constant(self, layer: int) -> Tensor:
        return super().constant(layer) * self.config.residual_multiplier

    def mlp(self, layer: int, x: Tensor) -> Tensor:
        return super().mlp(layer, x) * self.config.residual_multiplier

    def logits(self, x: Tensor) -> Tensor:
        return super().logits(x) / self.config.logits_scaling
