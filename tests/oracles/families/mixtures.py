"""Llama with a mixture of experts for an MLP: Mixtral, Qwen 2 MoE and Qwen 3 MoE.

A router gives every position a probability per expert. The experts that it likes best compute, each weighted by
its probability; the others count as zero. Experts have no capacity: no position is ever turned away.
"""

import torch
from torch import Tensor

from tests.oracles.families.base import ACTIVATIONS
from tests.oracles.families.llama import Llama, Qwen3


class Mixtral(Llama):
    """The weights of the chosen experts are made to sum to one."""

    renormalised = True

    def gated(self, layer: int, x: Tensor) -> Tensor:
        name, act = f"model.layers.{layer}.mlp", ACTIVATIONS[self.activation]
        share = self.shares(layer, x)
        y = torch.zeros_like(x)
        for expert in range(share.shape[-1]):
            gate, up = (x @ self.weights[f"{name}.experts.gate_up_proj"][expert].T).chunk(2, -1)
            down = self.weights[f"{name}.experts.down_proj"][expert]
            y = y + share[..., expert, None] * ((act(gate) * up) @ down.T)
        return y

    def shares(self, layer: int, x: Tensor) -> Tensor:
        """The weight of every expert, [b, T, experts]; zero for those that were not chosen."""
        router = self.narrow(x @ self.weights[f"model.layers.{layer}.mlp.gate.weight"].T).softmax(-1)
        likes, best = router.topk(self.config.num_experts_per_tok, -1)
        if self.renormalised:
            likes = likes / likes.sum(-1, keepdim=True)
        return torch.zeros_like(router).scatter(-1, best, likes).to(x.dtype)


class QwenMoe(Mixtral):
    """The weights sum to one if the config says so. Listed layers have the ordinary MLP."""

    @property
    def renormalised(self) -> bool:
        return self.config.norm_topk_prob

    def is_mixture(self, layer: int) -> bool:
        return layer not in self.config.mlp_only_layers

    def gated(self, layer: int, x: Tensor) -> Tensor:
        return super().gated(layer, x) if self.is_mixture(layer) else Llama.gated(self, layer, x)


class Qwen2Moe(QwenMoe):
    """A further expert computes at every position, scaled by a gate of its own. Some layers have a window."""

    def gated(self, layer: int, x: Tensor) -> Tensor:
        y = super().gated(layer, x)
        if not self.is_mixture(layer):
            return y
        name, act = f"model.layers.{layer}.mlp.shared_expert", ACTIVATIONS[self.activation]
        hidden = act(self.linear(x, f"{name}.gate_proj")) * self.linear(x, f"{name}.up_proj")
        gate = 1 / (1 + (-self.linear(x, f"{name}_gate")).exp())
        return y + gate * self.linear(hidden, f"{name}.down_proj")

    def window(self, layer: int) -> int | None:
        return self.config.sliding_window if self.config.layer_types[layer] == "sliding_attention" else None


class Qwen3Moe(QwenMoe, Qwen3):
    """With the norms of q and k of Qwen 3. All layers have the window, or none has."""

    def window(self, layer: int) -> int | None:
        return self.config.sliding_window
