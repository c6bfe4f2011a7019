"""OLMo 2: no norm before a sublayer, one after it; q and k normed over all heads at once.

Both norms couple heads: head h writes o_h * gain / rms(sum of all o), and the q of all heads share one rms, as
do the k. With a port for every query head, the rms of k is that of all ports together.
"""

import torch
from torch import Tensor

from tests.oracles.families.llama import Llama


class Olmo2(Llama):
    normed_after = True

    def before_attention(self, layer: int, x: Tensor) -> Tensor:
        return x

    def qk_norm(self, layer: int, port: str, y: Tensor, owner: list[int]) -> Tensor:
        gain = self.weights[f"model.layers.{layer}.self_attn.{port}_norm.weight"].reshape(-1, self.d_head)
        together = torch.cat(list(y), -1)  # [b, T, ports * d_head]
        normed = self.scaled_to_rms_one(together, self.config.rms_norm_eps).split(self.d_head, -1)
        return torch.stack([gain[o] * part for o, part in zip(owner, normed, strict=True)])

    def written(self, layer: int, o: Tensor) -> Tensor:
        total, name = o.sum(0), f"model.layers.{layer}.post_attention_layernorm"
        rms = (total.pow(2).mean(-1, keepdim=True) + self.config.rms_norm_eps).sqrt()
        return o * self.weights[f"{name}.weight"] / rms

    def normed(self, layer: int, total: Tensor) -> Tensor:
        return self.norm(total, f"model.layers.{layer}.post_attention_layernorm")

    def mlp(self, layer: int, x: Tensor) -> Tensor:
        return self.norm(self.gated(layer, x), f"model.layers.{layer}.post_feedforward_layernorm")
