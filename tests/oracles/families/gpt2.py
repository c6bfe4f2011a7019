"""GPT-2: learned positions, LayerNorm, q, k and v in one transposed matrix, an MLP with gelu."""

from torch import Tensor

from tests.oracles.families.base import ACTIVATIONS, Family


class Gpt2(Family):
    def embed(self, ids: Tensor, positions: Tensor) -> Tensor:
        return self.weights["transformer.wte.weight"][ids] + self.weights["transformer.wpe.weight"][positions]

    def _norm(self, x: Tensor, name: str) -> Tensor:
        return self.layer_norm(x, f"transformer.{name}", self.config.layer_norm_epsilon)

    def before_attention(self, layer: int, x: Tensor) -> Tensor:
        return self._norm(x, f"h.{layer}.ln_1")

    def projection(self, layer: int, port: str) -> tuple[Tensor, Tensor | None]:
        name, third = f"transformer.h.{layer}.attn.c_attn", "qkv".index(port)
        columns = slice(third * self.d_model, (third + 1) * self.d_model)
        return self.weights[f"{name}.weight"][:, columns].T, self.weights[f"{name}.bias"][columns]

    def scale(self, layer: int) -> float:
        scale = self.d_head**-0.5 if self.config.scale_attn_weights else 1.0
        return scale / (layer + 1) if self.config.scale_attn_by_inverse_layer_idx else scale

    def output(self, layer: int) -> tuple[Tensor, Tensor | None]:
        name = f"transformer.h.{layer}.attn.c_proj"
        return self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]

    def mlp(self, layer: int, x: Tensor) -> Tensor:
        name, act = f"transformer.h.{layer}.mlp", ACTIVATIONS[self.config.activation_function]
        hidden = act(self.linear(self._norm(x, f"h.{layer}.ln_2"), f"{name}.c_fc", transposed=True))
        return self.linear(hidden, f"{name}.c_proj", transposed=True)

    def logits(self, x: Tensor) -> Tensor:
        return self.linear(self._norm(x, "ln_f"), "lm_head")
