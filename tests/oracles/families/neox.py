"""GPT-NeoX (Pythia), GPT-J and Phi: LayerNorm, part of every head turned, attention and MLP side by side.

GPT-NeoX also exists with the MLP after attention; GPT-J and Phi have one norm for both.
"""

from torch import Tensor

from tests.oracles.families.base import (
    ACTIVATIONS,
    Family,
    inverse_wavelengths,
    rotated_halves,
    rotated_pairs,
)


class GptNeoX(Family):
    @property
    def parallel(self) -> bool:
        return self.config.use_parallel_residual

    def embed(self, ids: Tensor, positions: Tensor) -> Tensor:
        return self.weights["gpt_neox.embed_in.weight"][ids]

    def _norm(self, x: Tensor, name: str) -> Tensor:
        return self.layer_norm(x, f"gpt_neox.{name}", self.config.layer_norm_eps)

    def before_attention(self, layer: int, x: Tensor) -> Tensor:
        return self._norm(x, f"layers.{layer}.input_layernorm")

    def projection(self, layer: int, port: str) -> tuple[Tensor, Tensor | None]:
        """The fused matrix holds q, k and v of head 0, then those of head 1, and so on."""
        name, third = f"gpt_neox.layers.{layer}.attention.query_key_value", "qkv".index(port)
        weight = self.weights[f"{name}.weight"].reshape(self.heads, 3, self.d_head, self.d_model)[:, third]
        bias = self.weights[f"{name}.bias"].reshape(self.heads, 3, self.d_head)[:, third]
        return weight.reshape(-1, self.d_model), bias.reshape(-1)

    def rotate(self, layer: int, y: Tensor, positions: Tensor) -> Tensor:
        rope = self.config.rope_parameters
        inverse = inverse_wavelengths(rope["rope_theta"], int(self.d_head * rope["partial_rotary_factor"]))
        return rotated_halves(y, *self.angles(positions, inverse))

    def output(self, layer: int) -> tuple[Tensor, Tensor | None]:
        name = f"gpt_neox.layers.{layer}.attention.dense"
        return self.weights[f"{name}.weight"].T, self.weights[f"{name}.bias"]

    def mlp(self, layer: int, x: Tensor) -> Tensor:
        name, act = f"gpt_neox.layers.{layer}.mlp", ACTIVATIONS[self.config.hidden_act]
        x = self._norm(x, f"layers.{layer}.post_attention_layernorm")
        return self.linear(act(self.linear(x, f"{name}.dense_h_to_4h")), f"{name}.dense_4h_to_h")

    def logits(self, x: Tensor) -> Tensor:
        return self.linear(self._norm(x, "final_layer_norm"), "lm_head")


class GptJ(Family):
    """Neighbouring pairs are turned; no biases in attention; scores in float32; a bias of the unembedding."""

    parallel = True

    def embed(self, ids: Tensor, positions: Tensor) -> Tensor:
        return self.weights["transformer.wte.weight"][ids]

    def _norm(self, x: Tensor, name: str) -> Tensor:
        return self.layer_norm(x, f"transformer.{name}", self.config.layer_norm_epsilon)

    def before_attention(self, layer: int, x: Tensor) -> Tensor:
        return self._norm(x, f"h.{layer}.ln_1")

    def projection(self, layer: int, port: str) -> tuple[Tensor, Tensor | None]:
        return self.weights[f"transformer.h.{layer}.attn.{port}_proj.weight"], None

    def rotate(self, layer: int, y: Tensor, positions: Tensor) -> Tensor:
        inverse = inverse_wavelengths(10000.0, self.config.rotary_dim)
        return rotated_pairs(y, *self.angles(positions, inverse))

    def pattern(self, layer: int, q: Tensor, k: Tensor, mask: Tensor) -> Tensor:
        scores = self.narrow(q) @ self.narrow(k).transpose(-1, -2) / self.d_head**0.5
        return (scores + mask).softmax(-1).to(q.dtype)

    def output(self, layer: int) -> tuple[Tensor, Tensor | None]:
        return self.weights[f"transformer.h.{layer}.attn.out_proj.weight"].T, None

    def mlp(self, layer: int, x: Tensor) -> Tensor:
        name, act = f"transformer.h.{layer}.mlp", ACTIVATIONS[self.config.activation_function]
        x = self.before_attention(layer, x)
        return self.linear(act(self.linear(x, f"{name}.fc_in")), f"{name}.fc_out")

    def logits(self, x: Tensor) -> Tensor:
        return self.linear(self._norm(x, "ln_f"), "lm_head")


class Phi(Family):
    """Biases everywhere, also of the unembedding."""

    parallel = True

    def embed(self, ids: Tensor, positions: Tensor) -> Tensor:
        return self.weights["model.embed_tokens.weight"][ids]

    def _norm(self, x: Tensor, name: str) -> Tensor:
        return self.layer_norm(x, f"model.{name}", self.config.layer_norm_eps)

    def before_attention(self, layer: int, x: Tensor) -> Tensor:
        return self._norm(x, f"layers.{layer}.input_layernorm")

    def projection(self, layer: int, port: str) -> tuple[Tensor, Tensor | None]:
        name = f"model.layers.{layer}.self_attn.{port}_proj"
        return self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]

    def rotate(self, layer: int, y: Tensor, positions: Tensor) -> Tensor:
        rope = self.config.rope_parameters
        inverse = inverse_wavelengths(rope["rope_theta"], int(self.d_head * rope["partial_rotary_factor"]))
        return rotated_halves(y, *self.angles(positions, inverse))

    def output(self, layer: int) -> tuple[Tensor, Tensor | None]:
        name = f"model.layers.{layer}.self_attn.dense"
        return self.weights[f"{name}.weight"].T, self.weights[f"{name}.bias"]

    def mlp(self, layer: int, x: Tensor) -> Tensor:
        name, act = f"model.layers.{layer}.mlp", ACTIVATIONS[self.config.hidden_act]
        return self.linear(act(self.linear(self.before_attention(layer, x), f"{name}.fc1")), f"{name}.fc2")

    def logits(self, x: Tensor) -> Tensor:
        return self.linear(self._norm(x, "final_layernorm"), "lm_head")
