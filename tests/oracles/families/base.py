"""What a family of networks computes, part by part, and the formulas that several of them share.

A family gives the parts; `tests.oracles.dense` puts them together with an input of its own for every receiver.
Weights are read from a stock model's state dict; nothing else is taken from it. Where the stock model leaves
float64 for float32, `float32=True` does so too; False gives the pure formula. Rotary angles are float32 in
both cases: they are part of what the model is.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": lambda x: x.clamp(min=0),
    "silu": lambda x: x / (1 + (-x).exp()),
    "gelu": lambda x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2))),
    "gelu_new": lambda x: 0.5 * x * (1 + (math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)).tanh()),
}
ACTIVATIONS["gelu_pytorch_tanh"] = ACTIVATIONS["gelu_new"]


class Family:
    """The parts of one network. Tensors of heads are [heads, b, T, d_head], the residual stream is [b, T, d].

    `heads` counts query heads, `groups` key-value heads. What is not overridden is what most families do.
    """

    parallel = False  # the MLP reads what the heads of its layer read
    normed_after = False  # a norm follows the sum over the heads of a layer

    def __init__(self, config: Any, weights: dict[str, Tensor], float32: bool) -> None:
        self.config, self.weights, self.float32 = config, weights, float32
        self.dtype = next(iter(weights.values())).dtype
        self.d_model = config.hidden_size
        self.heads = config.num_attention_heads
        self.groups = getattr(config, "num_key_value_heads", None) or self.heads
        self.d_head = getattr(config, "head_dim", None) or self.d_model // self.heads

    # --- the parts ---------------------------------------------------------------------------------------

    def embed(self, ids: Tensor, positions: Tensor) -> Tensor:
        """What enters block 0, [b, T, d]."""
        raise NotImplementedError

    def before_attention(self, layer: int, x: Tensor) -> Tensor:
        """The norm between a receiver's input and its projection."""
        raise NotImplementedError

    def projection(self, layer: int, port: str) -> tuple[Tensor, Tensor | None]:
        """Weight [out, d] and bias [out] of q, k or v, head after head."""
        raise NotImplementedError

    def project(self, layer: int, port: str, x: Tensor) -> Tensor:
        """q, k or v of all ports before the rotary embedding; x [ports, b, T, d] holds the input of each.

        A key or value head may have several ports, one for each of its query heads: they share its weights.
        """
        weight, bias = self.projection(layer, port)
        owners = self.heads if port == "q" else self.groups
        ports = range(len(x))
        owner = [p * owners // len(x) for p in ports]
        weight = weight.reshape(owners, self.d_head, self.d_model)
        bias = torch.zeros_like(weight[..., 0]) if bias is None else bias.reshape(owners, self.d_head)
        y = torch.stack([x[p] @ weight[owner[p]].T + bias[owner[p]] for p in ports])
        return self.qk_norm(layer, port, y, owner) if port in "qk" else y

    def qk_norm(self, layer: int, port: str, y: Tensor, owner: list[int]) -> Tensor:
        """The norm of q or k [ports, b, T, d_head]; `owner` is the head whose weights a port uses."""
        return y

    def rotate(self, layer: int, y: Tensor, positions: Tensor) -> Tensor:
        """The rotary embedding of q or k."""
        return y

    def window(self, layer: int) -> int | None:
        """How many positions a query sees, itself included; None for all."""
        return None

    def pattern(self, layer: int, q: Tensor, k: Tensor, mask: Tensor) -> Tensor:
        """Attention probabilities [heads, b, T, T]; the mask is additive."""
        return (q @ k.transpose(-1, -2) * self.scale(layer) + mask).softmax(-1)

    def scale(self, layer: int) -> float:
        return self.d_head**-0.5

    def output(self, layer: int) -> tuple[Tensor, Tensor | None]:
        """Weight [heads * d_head, d] and bias [d] of attention's output projection."""
        raise NotImplementedError

    def written(self, layer: int, o: Tensor) -> Tensor:
        """What heads write to the residual stream, from their projected outputs [heads, b, T, d] of one run."""
        return o

    def normed(self, layer: int, total: Tensor) -> Tensor:
        """What the norm after attention makes of the sum over all heads, in families that have one."""
        raise NotImplementedError

    def constant(self, layer: int) -> Tensor:
        """What attention writes that belongs to no head, [d]."""
        bias = self.output(layer)[1]
        return torch.zeros(self.d_model, dtype=self.dtype) if bias is None else bias

    def mlp(self, layer: int, x: Tensor) -> Tensor:
        """What the MLP writes for the input x of its receiver, with all norms around it."""
        raise NotImplementedError

    def logits(self, x: Tensor) -> Tensor:
        """Final norm and unembedding."""
        raise NotImplementedError

    # --- formulas ----------------------------------------------------------------------------------------

    def linear(self, x: Tensor, name: str, transposed: bool = False) -> Tensor:
        weight, bias = self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias")
        y = x @ (weight if transposed else weight.T)
        return y if bias is None else y + bias

    def layer_norm(self, x: Tensor, name: str, eps: float) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        variance = (centred * centred).mean(-1, keepdim=True)
        gain, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return centred / (variance + eps).sqrt() * gain + bias

    def scaled_to_rms_one(self, x: Tensor, eps: float) -> Tensor:
        """x / rms(x) over the last dimension, in float32 where the stock model computes so."""
        y = self.narrow(x)
        return (y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype)

    def narrow(self, x: Tensor) -> Tensor:
        """x in float32 where the stock model computes so, else as it is."""
        return x.type(torch.float32) if self.float32 else x

    def angles(self, positions: Tensor, inverse: Tensor, size: float = 1.0) -> tuple[Tensor, Tensor]:
        """cos and sin [b, T, frequencies] of positions times inverse wavelengths, times `size`, in float32."""
        angles = positions[..., None].float() * inverse
        return (angles.cos() * size).to(self.dtype), (angles.sin() * size).to(self.dtype)


def inverse_wavelengths(theta: float, rotated: int) -> Tensor:
    """theta^(-2 i / rotated) in float32, one for every pair that is turned."""
    return 1.0 / (theta ** (torch.arange(0, rotated, 2).float() / rotated))


def rotated_halves(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Every pair (i, i + n) of the first 2 n entries of x, turned by angle i of n; the rest as it is."""
    n = cos.shape[-1]
    first, second, rest = x[..., :n], x[..., n : 2 * n], x[..., 2 * n :]
    return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], -1)


def rotated_pairs(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Every pair (2 i, 2 i + 1) of the first 2 n entries of x, turned by angle i of n; the rest as it is."""
    n = cos.shape[-1]
    first, second, rest = x[..., 0 : 2 * n : 2], x[..., 1 : 2 * n : 2], x[..., 2 * n :]
    turned = torch.empty_like(x[..., : 2 * n])
    turned[..., 0::2] = first * cos - second * sin
    turned[..., 1::2] = second * cos + first * sin
    return torch.cat([turned, rest], -1)
