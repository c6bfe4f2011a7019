"""Gemma 2 and 3: norms before and after every sublayer, gains counted from one, capped scores and logits.

The norm after attention couples the heads of a layer: head h writes o_h * gain / rms(sum of all o). Where whoever
reads norms the sum of what it reads, no head writes anything by itself (`tests.oracles.dense`).
"""

import torch
from torch import Tensor

from tests.oracles.families.llama import Llama


class Gemma2(Llama):
    normed_after = True

    def embed(self, ids: Tensor, positions: Tensor) -> Tensor:
        scale = torch.tensor(self.d_model**0.5)  # a float32 buffer of the model, whatever its precision
        return super().embed(ids, positions) * scale.to(self.dtype)

    def gain(self, name: str) -> Tensor:
        return 1 + self.narrow(self.weights[f"{name}.weight"])

    def norm(self, x: Tensor, name: str) -> Tensor:
        y = self.narrow(x)
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + self.config.rms_norm_eps)
        return (y * self.gain(name)).to(x.dtype)

    def window(self, layer: int) -> int | None:
        sliding = self.config.layer_types[layer] == "sliding_attention"
        return self.config.sliding_window if sliding else None

    def scale(self, layer: int) -> float:
        return self.config.query_pre_attn_scalar**-0.5

    def pattern(self, layer: int, q: Tensor, k: Tensor, mask: Tensor) -> Tensor:
        cap = self.config.attn_logit_softcapping
        scores = cap * torch.tanh(q @ k.transpose(-1, -2) * self.scale(layer) / cap)
        return self.narrow(scores + mask).softmax(-1).to(q.dtype)

    def written(self, layer: int, o: Tensor) -> Tensor:
        total = o.sum(0)
        rms = (total.pow(2).mean(-1, keepdim=True) + self.config.rms_norm_eps).sqrt()
        gain = 1 + self.weights[f"model.layers.{layer}.post_attention_layernorm.weight"]
        return o * gain / rms

    def normed(self, layer: int, total: Tensor) -> Tensor:
        return self.norm(total, f"model.layers.{layer}.post_attention_layernorm")

    def mlp(self, layer: int, x: Tensor) -> Tensor:
        name = f"model.layers.{layer}"
        hidden = self.gated(layer, self.norm(x, f"{name}.pre_feedforward_layernorm"))
        return self.norm(hidden, f"{name}.post_feedforward_layernorm")

    @property
    def activation(self) -> str:
        return self.config.hidden_activation

    def logits(self, x: Tensor) -> Tensor:
        cap = self.config.final_logit_softcapping
        logits = super().logits(x)
        return logits if cap is None else cap * torch.tanh(logits / cap)


class Gemma3(Gemma2):
    """No cap on scores; q and k normed head by head; other wavelengths in layers with a window."""

    def qk_norm(self, layer: int, port: str, y: Tensor, owner: list[int]) -> Tensor:
        return self.norm(y, f"model.layers.{layer}.self_attn.{port}_norm")

    def pattern(self, layer: int, q: Tensor, k: Tensor, mask: Tensor) -> Tensor:
        return (q @ k.transpose(-1, -2) * self.scale(layer) + mask).softmax(-1)

    def rope(self, layer: int) -> dict:
        return self.config.rope_parameters[self.config.layer_types[layer]]
