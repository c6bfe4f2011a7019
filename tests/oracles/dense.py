"""A transformer in plain torch with an input of its own for every receiver. An oracle.

Written from the formulas, one full forward per call, no caches, no skipping; shares nothing with the engine but
the graph's ids. What is particular to a family of networks is in `tests.oracles.families`.

    x_r = constants + sum over the senders s that r reads of
          the output of s in this run if the edge is kept, else the ablated output of s

Constants (output biases of attention) belong to no sender. A head's output is what it adds to the residual
stream: behind a norm of the sum of all heads, its share in that run (`post_norm="own"`). Under "mixed" a head's
output is in front of that norm, and what r reads of a layer's heads is the norm of the sum over all of them, kept and
ablated: x_r = ... + norm_l(sum over the heads h of layer l of the output or ablated output of h). Every query head
attends with one (q, k, v) triple, each computed from the receiver input of its own port.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.core.graph import Graph
from tests.oracles.families import FAMILIES


@dataclass(frozen=True)
class Forward:
    """`logits` [b, T, V] and the output of every sender in this run, `outputs` [senders, b, T, d]."""

    logits: Tensor
    outputs: Tensor


class Dense:
    """The network behind a stock model, ready for forwards with chosen edges.

    `float32_norms` follows the stock model where it leaves float64 for float32; False is the pure formula.
    """

    def __init__(
        self, hf_model: nn.Module, graph: Graph, float32_norms: bool = True, post_norm: str = "mixed"
    ) -> None:
        self.graph = graph
        self.weights = {k: v.detach() for k, v in hf_model.state_dict().items()}
        config = hf_model.config
        self.family = FAMILIES[config.model_type](config, self.weights, float32_norms)
        self.d_model = self.family.d_model
        self.mixed = post_norm != "own" and self.family.normed_after
        shape = (config.num_hidden_layers, self.family.heads, self.family.groups, self.family.parallel)
        if shape != (graph.n_layers, graph.n_heads, graph.n_kv_heads, graph.parallel):
            raise ValueError(f"not the graph of this model: {graph.describe()}")

    @property
    def weights_dtype(self) -> torch.dtype:
        return self.family.dtype

    def embed(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        """What enters block 0, [b, T, d]."""
        return self.family.embed(ids, position_ids(ids, mask))

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
        graph, family, positions = self.graph, self.family, position_ids(ids, mask)
        table = np.ones((graph.n_receivers, graph.n_senders))
        if kept is not None:
            table[graph.edge_receivers, graph.edge_senders] = kept
        share = torch.as_tensor(table, dtype=self.weights_dtype)
        outputs = [self.embed(ids, mask) if embeddings is None else embeddings]
        constant = torch.zeros(self.d_model, dtype=self.weights_dtype)

        def inputs(first: int, count: int, n: int, constant: Tensor) -> Tensor:
            """What `count` receivers read of the first n senders, [count, b, T, d]."""
            rows = slice(first, first + count)
            if set(graph.senders_read[rows]) != {n}:
                raise AssertionError("receivers must read exactly the senders before them")
            x = constant.expand(count, *ids.shape, self.d_model)
            for layer, senders in self._groups(n):
                part = share[rows, senders] @ torch.stack(outputs[:n])[senders].flatten(1)
                if ablated is not None:
                    part = part + (1 - share[rows, senders]) @ ablated[senders].flatten(1)
                part = part.reshape(x.shape)
                x = x + (part if layer is None else family.normed(layer, part))
            return x if added is None else x + added[rows]

        for layer in range(graph.n_layers):
            before = len(outputs), constant
            ports = {"q": graph.n_heads, "k": graph.n_ports, "v": graph.n_ports}
            x = inputs(graph.head_receiver(layer, "q"), sum(ports.values()), *before)
            x = family.before_attention(layer, x).split(list(ports.values()))
            q, k, v = (family.project(layer, port, part) for port, part in zip(ports, x, strict=True))
            q, k = family.rotate(layer, q, positions), family.rotate(layer, k, positions)
            outputs += list(self._heads(layer, q, k, v, self._mask(mask, ids.shape, family.window(layer))))
            constant = constant + family.constant(layer)
            now = before if family.parallel else (len(outputs), constant)
            outputs.append(family.mlp(layer, inputs(graph.mlp_receiver(layer), 1, *now)[0]))
        final = inputs(graph.logits_receiver, 1, len(outputs), constant)[0]
        return Forward(family.logits(final), torch.stack(outputs))

    def _groups(self, n: int) -> list[tuple[int | None, list[int]]]:
        """The first n senders, in groups that are summed; those of a layer whose sum is normed, with that layer."""
        heads, graph = {}, self.graph
        if self.mixed:
            heads = {
                layer: list(range(graph.head_sender(layer), graph.mlp_sender(layer)))
                for layer in range(graph.n_layers)
                if graph.mlp_sender(layer) <= n
            }
        within = {sender for group in heads.values() for sender in group}
        return [(None, [s for s in range(n) if s not in within]), *heads.items()]

    def changes(self, base: Tensor, other: Tensor) -> Tensor:
        """What a reader meets more when one sender writes `other` and all others `base`, [senders, b, T, d]."""
        out = other - base
        for layer, senders in self._groups(self.graph.n_senders):
            if layer is not None:
                total = base[senders].sum(0)
                for sender in senders:
                    mixed = total - base[sender] + other[sender]
                    out[sender] = self.family.normed(layer, mixed) - self.family.normed(layer, total)
        return out

    def _heads(self, layer: int, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        """What all heads write [heads, b, T, d]; k and v have one entry per port."""
        per_port = self.graph.n_heads // len(k)
        k, v = k.repeat_interleave(per_port, 0), v.repeat_interleave(per_port, 0)
        z = self.family.pattern(layer, q, k, mask) @ v
        weight = self.family.output(layer)[0].reshape(self.graph.n_heads, 1, -1, self.d_model)
        out = z @ weight
        return out if self.mixed else self.family.written(layer, out)

    def _mask(self, mask: Tensor | None, shape: torch.Size, window: int | None) -> Tensor:
        """Additive [b, T, T]: causal, windowed and without padding keys, or a given 4-D mask as it is."""
        if mask is not None and mask.ndim == 4:
            return mask[:, 0].to(self.weights_dtype)
        batch, length = shape
        query, key = torch.arange(length)[:, None], torch.arange(length)[None]
        allowed = key <= query
        if window is not None:
            allowed = allowed & (key > query - window)
        allowed = allowed.expand(batch, length, length)
        if mask is not None:
            allowed = allowed & mask.bool()[:, None]
        lowest = torch.finfo(self.weights_dtype).min
        return torch.zeros(allowed.shape, dtype=self.weights_dtype).masked_fill(~allowed, lowest)


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
    float32_norms: bool = True,
    post_norm: str = "mixed",
) -> Tensor:
    """Logits [b, T, V] of the clean run in which every edge that is not kept carries its ablated value.

    The ablated values are the corrupted run's outputs, unless `ablated_outputs` [senders, b, T, d] is given.
    """
    dense = Dense(hf_model, graph, float32_norms, post_norm)
    if ablated_outputs is None:
        ablated_outputs = dense.forward(corrupted_ids, mask).outputs
    return dense.forward(clean_ids, mask, kept, ablated_outputs).logits
