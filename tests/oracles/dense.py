"""GPT-2 and the Llama family (Llama, Mistral, Qwen2) in plain torch, an input of its own for every receiver.

An oracle: written from the formulas, one full forward per call, no caches, no skipping. Reads the weights of
a stock Hugging Face model and shares nothing with the engine but the graph's ids.

    x_r = constants + sum over the senders s that r reads of
          the output of s in this run if the edge is kept, else the ablated output of s

Constants (output biases of attention) belong to no sender. Attention is softmax(q k^T * scale + mask) v with
one (q, k, v) triple per query head, each computed from the receiver input of its own port.

Where the stock model leaves float64 for float32 (RMSNorm, the rotary angles), so does this file, so that the
two can be compared to 1e-10; `float32_norms=False` gives the pure formula.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.core.graph import Graph

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": lambda x: x.clamp(min=0),
    "silu": lambda x: x / (1 + (-x).exp()),
    "gelu_new": lambda x: 0.5 * x * (1 + (math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)).tanh()),
}


@dataclass(frozen=True)
class Forward:
    """`logits` [b, T, V] and the output of every sender in this run, `outputs` [senders, b, T, d]."""

    logits: Tensor
    outputs: Tensor


class Dense:
    """The network behind a stock model, ready for forwards with chosen edges."""

    def __init__(self, hf_model: nn.Module, graph: Graph, float32_norms: bool = True) -> None:
        self.graph = graph
        self.config = hf_model.config
        self.weights = {k: v.detach() for k, v in hf_model.state_dict().items()}
        self.float32_norms = float32_norms
        self.gpt2 = self.config.model_type == "gpt2"
        if not self.gpt2 and self.config.model_type not in ("llama", "mistral", "qwen2"):
            raise NotImplementedError(self.config.model_type)
        self.d_model = self.config.hidden_size
        self.d_head = getattr(self.config, "head_dim", None) or self.d_model // graph.n_heads

    # --- parts -------------------------------------------------------------------------------------------

    def embed(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        """What enters block 0: token (and position) embeddings [b, T, d]."""
        if not self.gpt2:
            return self.weights["model.embed_tokens.weight"][ids]
        positions = position_ids(ids, mask)
        return self.weights["transformer.wte.weight"][ids] + self.weights["transformer.wpe.weight"][positions]

    def _norm(self, x: Tensor, name: str) -> Tensor:
        if self.gpt2:
            gain, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
            centred = x - x.mean(-1, keepdim=True)
            variance = (centred * centred).mean(-1, keepdim=True)
            return centred / (variance + self.config.layer_norm_epsilon).sqrt() * gain + bias
        y = x.float() if self.float32_norms else x
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + self.config.rms_norm_eps)
        return self.weights[f"{name}.weight"] * y.to(x.dtype)

    def _qkv(self, layer: int, port: str, x: Tensor) -> Tensor:
        """Projections of the receivers of a port, x [ports, b, T, d] -> [ports, b, T, d_head]."""
        heads, groups = self.graph.n_heads, self.graph.n_kv_heads
        if self.gpt2:
            block = {"q": 0, "k": 1, "v": 2}[port]
            columns = slice(block * self.d_model, (block + 1) * self.d_model)
            weight = self.weights[f"transformer.h.{layer}.attn.c_attn.weight"][:, columns].T
            bias = self.weights[f"transformer.h.{layer}.attn.c_attn.bias"][columns]
        else:
            name = f"model.layers.{layer}.self_attn.{port}_proj"
            weight, bias = self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias")
        owners = heads if port == "q" else groups  # how many heads the weights hold
        weight = weight.reshape(owners, self.d_head, self.d_model)
        bias = torch.zeros_like(weight[..., 0]) if bias is None else bias.reshape(owners, self.d_head)
        weight = weight.repeat_interleave(len(x) // owners, 0)  # query heads read the weights of their group
        bias = bias.repeat_interleave(len(x) // owners, 0)
        return x @ weight[:, None].transpose(-1, -2) + bias[:, None, None]

    def _angles(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin [b, T, d_head / 2] of the rotary embedding, in float32 as in the stock model."""
        theta = self.config.rope_parameters["rope_theta"]
        inverse = 1.0 / (theta ** (torch.arange(0, self.d_head, 2).float() / self.d_head))
        angles = positions[..., None].float() * inverse
        return angles.cos().to(self.weights_dtype), angles.sin().to(self.weights_dtype)

    def _heads(self, layer: int, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        """Outputs of all heads [heads, b, T, d], without the output bias; k and v have one entry per port."""
        per_port = self.graph.n_heads // len(k)
        k, v = k.repeat_interleave(per_port, 0), v.repeat_interleave(per_port, 0)
        scale = self.d_head**-0.5
        if self.gpt2 and not self.config.scale_attn_weights:
            scale = 1.0
        if self.gpt2 and self.config.scale_attn_by_inverse_layer_idx:
            scale /= layer + 1
        z = (q @ k.transpose(-1, -2) * scale + mask).softmax(-1) @ v
        if self.gpt2:
            out = self.weights[f"transformer.h.{layer}.attn.c_proj.weight"]
        else:
            out = self.weights[f"model.layers.{layer}.self_attn.o_proj.weight"].T
        return z @ out.reshape(self.graph.n_heads, 1, self.d_head, self.d_model)

    def _attention_constant(self, layer: int) -> Tensor:
        name = f"transformer.h.{layer}.attn.c_proj.bias"
        name = name if self.gpt2 else f"model.layers.{layer}.self_attn.o_proj.bias"
        return self.weights.get(name, torch.zeros(self.d_model, dtype=self.weights_dtype))

    @property
    def weights_dtype(self) -> torch.dtype:
        return next(iter(self.weights.values())).dtype

    def _mlp(self, layer: int, x: Tensor) -> Tensor:
        linear = self._linear
        if self.gpt2:
            name, act = f"transformer.h.{layer}", ACTIVATIONS[self.config.activation_function]
            hidden = act(linear(self._norm(x, f"{name}.ln_2"), f"{name}.mlp.c_fc", transposed=True))
            return linear(hidden, f"{name}.mlp.c_proj", transposed=True)
        name, act = f"model.layers.{layer}", ACTIVATIONS[self.config.hidden_act]
        x = self._norm(x, f"{name}.post_attention_layernorm")
        gated = act(linear(x, f"{name}.mlp.gate_proj")) * linear(x, f"{name}.mlp.up_proj")
        return linear(gated, f"{name}.mlp.down_proj")

    def _linear(self, x: Tensor, name: str, transposed: bool = False) -> Tensor:
        weight, bias = self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias")
        y = x @ (weight if transposed else weight.T)
        return y if bias is None else y + bias

    def _mask(self, mask: Tensor | None, batch: int, length: int) -> Tensor:
        """Additive [b, T, T]: causal, windowed and without padding keys, or a given 4-D mask as it is."""
        if mask is not None and mask.ndim == 4:
            return mask[:, 0].to(self.weights_dtype)
        query, key = torch.arange(length)[:, None], torch.arange(length)[None]
        allowed = key <= query
        if self.config.model_type == "mistral" and self.config.sliding_window is not None:
            allowed = allowed & (key > query - self.config.sliding_window)
        allowed = allowed.expand(batch, length, length)
        if mask is not None:
            allowed = allowed & mask.bool()[:, None]
        lowest = torch.finfo(self.weights_dtype).min
        return torch.zeros(allowed.shape, dtype=self.weights_dtype).masked_fill(~allowed, lowest)

    # --- the whole network -------------------------------------------------------------------------------

    def forward(
        self,
        ids: Tensor,
        mask: Tensor | None = None,
        kept: np.ndarray | None = None,
        ablated: Tensor | None = None,
        embeddings: Tensor | None = None,
        added: Tensor | None = None,
    ) -> Forward:
        """One forward; `kept` bool per edge (all by default), `ablated` [senders, b, T, d] for the others.

        `embeddings` replaces what enters block 0; `added` [receivers, b, T, d] is added to the receivers'
        inputs, so that its gradient is the gradient at every receiver by itself.
        """
        graph = self.graph
        table = np.ones((graph.n_receivers, graph.n_senders))
        if kept is not None:
            table[graph.edge_receivers, graph.edge_senders] = kept
        share = torch.as_tensor(table, dtype=self.weights_dtype)
        batch, length = ids.shape
        additive = self._mask(mask, batch, length)
        angles = None if self.gpt2 else self._angles(position_ids(ids, mask))
        outputs = [self.embed(ids, mask) if embeddings is None else embeddings]
        constant = torch.zeros(self.d_model, dtype=self.weights_dtype)

        def inputs(first: int, count: int) -> Tensor:
            n, rows = len(outputs), slice(first, first + count)
            if int(graph.senders_read[first]) != n:
                raise AssertionError("receivers must read all senders so far")
            x = share[rows, :n] @ torch.stack(outputs).flatten(1)
            if ablated is not None:
                x = x + (1 - share[rows, :n]) @ ablated[:n].flatten(1)
            x = x.reshape(count, batch, length, self.d_model) + constant
            return x if added is None else x + added[rows]

        for layer in range(graph.n_layers):
            norm = f"transformer.h.{layer}.ln_1" if self.gpt2 else f"model.layers.{layer}.input_layernorm"
            counts = {"q": graph.n_heads, "k": graph.n_ports, "v": graph.n_ports}
            x = self._norm(inputs(graph.head_receiver(layer, "q"), sum(counts.values())), norm)
            qkv = [
                self._qkv(layer, port, part)
                for port, part in zip(counts, x.split(list(counts.values())), strict=True)
            ]
            if angles is not None:
                qkv[:2] = [rotated(part, *angles) for part in qkv[:2]]
            heads = self._heads(layer, *qkv, additive)
            outputs += list(heads)
            constant = constant + self._attention_constant(layer)
            outputs.append(self._mlp(layer, inputs(graph.mlp_receiver(layer), 1)[0]))
        final = self._norm(
            inputs(graph.logits_receiver, 1)[0], "transformer.ln_f" if self.gpt2 else "model.norm"
        )
        return Forward(final @ self.weights["lm_head.weight"].T, torch.stack(outputs))


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Every pair (i, i + d_head / 2) of x [heads, b, T, d_head], turned by its angle."""
    first, second = x.chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


def position_ids(ids: Tensor, mask: Tensor | None) -> Tensor:
    """Positions that count real tokens only; padding gets 0."""
    if mask is None or mask.ndim == 4:
        return torch.arange(ids.shape[1]).expand(ids.shape)
    return (mask.long().cumsum(-1) - 1).clamp(min=0)


def patched_logits(
    hf_model: nn.Module,
    clean_ids: Tensor,
    corrupted_ids: Tensor,
    mask: Tensor | None,
    kept: np.ndarray,
    graph: Graph,
    ablated_outputs: Tensor | None = None,
) -> Tensor:
    """Logits [b, T, V] of the clean run in which every edge that is not kept carries its ablated value.

    The ablated values are the corrupted run's outputs, unless `ablated_outputs` [senders, b, T, d] is given.
    """
    dense = Dense(hf_model, graph)
    if ablated_outputs is None:
        ablated_outputs = dense.forward(corrupted_ids, mask).outputs
    return dense.forward(clean_ids, mask, kept, ablated_outputs).logits
