"""A forward pass in which every receiver has its own input: what a circuit computes.

    x_r = clean residual of r + sum over kept senders (current - clean) + sum over the others (ablated - clean)

Everything is recomputed from the current values, norms included. Knows graph, captures and executor; does not
know how a circuit was found or how good it is.
"""

from typing import cast

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pipeline.core.graph import Graph
from pipeline.engine.capture import Capture
from pipeline.engine.executor import Executor
from pipeline.engine.senders import SenderValues, at_answer
from pipeline.models.adapters import Parts, Port


def kept_matrix(graph: Graph, kept: Bool[np.ndarray, " edge"]) -> Bool[np.ndarray, "receiver sender"]:
    """A circuit's edges as a table of receivers and senders."""
    table = np.zeros((graph.n_receivers, graph.n_senders), dtype=bool)
    table[graph.edge_receivers, graph.edge_senders] = kept
    return table


@torch.no_grad()
def run_circuit(
    parts: Parts,
    graph: Graph,
    executor: Executor,
    clean: Capture,
    ablated_minus_clean: SenderValues,
    kept: Bool[np.ndarray, " edge"],
) -> Float[Tensor, "prompt d_model"]:
    """Final hidden states at the answer of a run in which only the kept edges carry current values."""
    removed = ablated_minus_clean.written(parts)  # [sender, prompt, pos, d_model]
    written = SenderValues.of(clean).written(parts)
    current = torch.zeros_like(removed)  # current minus clean, filled layer by layer
    table = torch.from_numpy(kept_matrix(graph, kept)).to(removed)

    def inputs(
        first: int, last: int, base: Tensor, current: Tensor, removed: Tensor
    ) -> Float[Tensor, "receiver prompt pos d_model"]:
        n = int(graph.senders_read[first])
        keep = table[first:last, :n].to(base.device)
        x = torch.einsum("rs,sbtd->rbtd", keep, current[:n])
        x = base + x + torch.einsum("rs,sbtd->rbtd", 1 - keep, removed[:n])
        return x.to(base.dtype)

    for layer, block in enumerate(parts.blocks):
        record, rows = clean.layers[layer], executor.every[layer]
        current, removed, written = (x.to(block.device) for x in (current, removed, written))
        first, heads = graph.head_receiver(layer, "q"), graph.n_heads
        x = inputs(first, graph.mlp_receiver(layer), record.resid, current, removed)
        normed = block.norm1(x)[:, None]  # one variant
        sizes = dict(zip(("q", "k", "v"), (heads, graph.n_ports, graph.n_ports), strict=True))
        projected = {}
        for port, part in zip(sizes, normed.split(list(sizes.values())), strict=True):
            per_head = part.repeat_interleave(heads // part.shape[0], 0)  # a group of heads reads one input
            projected[port] = executor.project(layer, cast("Port", port), range(heads), per_head, rows)
        z = rows.attend(projected["q"], projected["k"], projected["v"], range(heads))
        out = executor.head_outputs(layer, range(heads), z, executor.scale_of(layer, z))
        senders = slice(graph.head_sender(layer), graph.mlp_sender(layer))
        current[senders] = out.squeeze(1) - written[senders]
        mlp = graph.mlp_receiver(layer)
        x = inputs(mlp, mlp + 1, record.mid, current, removed).squeeze(0)
        sender = graph.mlp_sender(layer)
        current[sender] = executor.mlp(layer, x) - written[sender]
    logits = graph.logits_receiver
    final = clean.final
    x = inputs(logits, logits + 1, final, current.to(final.device), removed.to(final.device)).squeeze(0)
    return executor.read_out(at_answer(x, executor.answer_pos)).squeeze(-2)
