"""OPT: learned positions that start at row 2, LayerNorm, biases everywhere, an MLP with relu."""

from torch import Tensor

from tests.oracles.families.base import ACTIVATIONS, Family


class Opt(Family):
    def embed(self, ids: Tensor, positions: Tensor) -> Tensor:
        tokens, places = (
            self.weights[f"model.decoder.embed_{name}.weight"] for name in ("tokens", "positions")
        )
        return tokens[ids] + places[positions + 2]

    def _norm(self, x: Tensor, name: str) -> Tensor:
        return self.layer_norm(x, f"model.decoder.{name}", 1e-5)

    def before_attention(self, layer: int, x: Tensor) -> Tensor:
        return self._norm(x, f"layers.{layer}.self_attn_layer_norm")

    def projection(self, layer: int, port: str) -> tuple[Tensor, Tensor | None]:
        name = f"model.decoder.layers.{layer}.self_attn.{port}_proj"
        return self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]

    def output(self, layer: int) -> tuple[Tensor, Tensor | None]:
        name = f"model.decoder.layers.{layer}.self_attn.out_proj"
        return self.weights[f"{name}.weight"].T, self.weights[f"{name}.bias"]

    def mlp(self, layer: int, x: Tensor) -> Tensor:
        name, act = f"model.decoder.layers.{layer}", ACTIVATIONS[self.config.activation_function]
        x = self._norm(x, f"layers.{layer}.final_layer_norm")
        return self.linear(act(self.linear(x, f"{name}.fc1")), f"{name}.fc2")

    def logits(self, x: Tensor) -> Tensor:
        return self.linear(self._norm(x, "final_layer_norm"), "lm_head")
