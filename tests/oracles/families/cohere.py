"""Cohere: one norm without a bias for attention and MLP, which run side by side; neighbouring pairs are turned."""

import torch
from torch import Tensor

from tests.oracles.families.base import rotated_pairs
from tests.oracles.families.llama import Llama


class Cohere(Llama):
    parallel = True

    def norm(self, x: Tensor, name: str) -> Tensor:
        return self._normed(x, self.weights[f"{name}.weight"])

    def _normed(self, x: Tensor, gain: Tensor) -> Tensor:
        """LayerNorm over the last dimension, in float32 where the stock model computes so."""
        y = self.narrow(x)
        centred = y - y.mean(-1, keepdim=True)
        variance = centred.pow(2).mean(-1, keepdim=True)
        return (self.narrow(gain) * (centred * torch.rsqrt(variance + self.config.layer_norm_eps))).to(
            x.dtype
        )

    def qk_norm(self, layer: int, port: str, y: Tensor, owner: list[int]) -> Tensor:
        """With use_qk_norm every head is normed by itself, with its own gain."""
        if not self.config.use_qk_norm:
            return y
        gain = self.weights[f"model.layers.{layer}.self_attn.{port}_norm.weight"]  # [heads, d_head]
        return torch.stack([self._normed(part, gain[o]) for o, part in zip(owner, y, strict=True)])

    def rotate(self, layer: int, y: Tensor, positions: Tensor) -> Tensor:
        cos, sin = self.tables(layer, positions)
        return rotated_pairs(self.narrow(y).to(y.dtype), cos, sin)

    def mlp(self, layer: int, x: Tensor) -> Tensor:
        return self.gated(layer, self.before_attention(layer, x))

    def logits(self, x: Tensor) -> Tensor:
        return super().logits(x) * self.config.logit_scale
