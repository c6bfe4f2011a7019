"""A forward pass in which every receiver has its own input: what a circuit computes.

    x_r = sum over kept senders of what they write now + sum over the others of what they write ablated + constants

Summed as it stands, never as a difference from the clean run: where all that is left should be zero, rounding of
large numbers would be left, and a norm without a mean multiplies that by up to 1/sqrt(eps) in every layer.
Constants are the output biases of attention. Where a norm follows attention and blocks are `mixed`, the sum over
the heads of a layer is taken in front of it, kept and ablated heads and the bias together, and normed by every
receiver: as MIB evaluates (`evaluate_graph` of EAP-IG). Everything is recomputed from the current values, norms
included. Knows graph, captures and executor; does not know how a circuit was found or how good it is.
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
from pipeline.models.adapters import Block, Parts, Port


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
    ablated: SenderValues,
    kept: Bool[np.ndarray, " edge"],
) -> Float[Tensor, "prompt d_model"]:
    """Final hidden states at the answer of a run in which only the kept edges carry current values.

    `ablated` is what senders write on all other edges. Senders that no kept edge reads are not computed.
    """
    removed = ablated.wide().written(parts)  # [sender, prompt, pos, d_model]
    current = torch.zeros_like(removed)  # filled layer by layer
    current[0] = clean.input
    matrix = kept_matrix(graph, kept)
    table, read = torch.from_numpy(matrix).to(removed), np.flatnonzero(matrix.any(0))
    constant = removed.new_zeros(removed.shape[-1])
    mixed = {
        block.layer: slice(graph.head_sender(block.layer), graph.mlp_sender(block.layer))
        for block in parts.blocks
        if block.mixed
    }

    def inputs(first: int, last: int) -> Float[Tensor, "receiver prompt pos d_model"]:
        n = int(graph.senders_read[first])
        keep = table[first:last, :n].to(current.device)

        def summed(senders: slice | list[int]) -> Float[Tensor, "receiver prompt pos d_model"]:
            x = torch.einsum("rs,sbtd->rbtd", keep[:, senders], current[senders])
            return x + torch.einsum("rs,sbtd->rbtd", 1 - keep[:, senders], removed[senders])

        normed = {layer: heads for layer, heads in mixed.items() if heads.stop <= n}
        within = {sender for heads in normed.values() for sender in range(heads.start, heads.stop)}
        x = summed([sender for sender in range(n) if sender not in within] if normed else slice(0, n))
        for layer, heads in normed.items():
            x = x + attention_added(parts.blocks[layer], summed(heads))
        return (x + constant).to(clean.input.dtype)

    for layer, block in enumerate(parts.blocks):
        current, removed, constant = (x.to(block.device) for x in (current, removed, constant))
        heads = range(graph.head_sender(layer), graph.mlp_sender(layer))
        if np.isin(heads, read).any():
            x = inputs(graph.head_receiver(layer, "q"), graph.mlp_receiver(layer))
            current[heads.start : heads.stop] = _heads(
                graph, executor, layer, block.norm1(x)[:, None]
            ).squeeze(1)
        bias = written_by_none(clean, block)
        if bias is not None and not block.parallel:
            constant = constant + bias
        mlp, sender = graph.mlp_receiver(layer), graph.mlp_sender(layer)
        if sender in read:
            current[sender] = executor.mlp(layer, inputs(mlp, mlp + 1).squeeze(0))
        if bias is not None and block.parallel:
            constant = constant + bias
    device, logits = clean.final.device, graph.logits_receiver
    current, removed, constant = (x.to(device) for x in (current, removed, constant))
    x = inputs(logits, logits + 1).squeeze(0)
    return executor.read_out(at_answer(x, executor.answer_pos)).squeeze(-2)


def _heads(
    graph: Graph, executor: Executor, layer: int, normed: Float[Tensor, "receiver one prompt pos d_model"]
) -> Float[Tensor, "head one prompt pos d_model"]:
    """What the heads of a layer write when its receivers read these."""
    heads, rows = graph.n_heads, executor.every[layer]
    sizes = dict(zip(("q", "k", "v"), (heads, graph.n_ports, graph.n_ports), strict=True))
    projected = {}
    for port, part in zip(sizes, normed.split(list(sizes.values())), strict=True):
        per_head = part.repeat_interleave(heads // part.shape[0], 0)  # a group of heads reads one input
        projected[port] = executor.project(layer, cast("Port", port), range(heads), per_head, rows)
    z = rows.attend(projected["q"], projected["k"], projected["v"], range(heads))
    return executor.head_outputs(layer, range(heads), z, executor.scale_of(layer, z))


def attention_added(block: Block, raw: Float[Tensor, "*lead d_model"]) -> Float[Tensor, "*lead d_model"]:
    """What the attention of a mixed block adds, given the sum over its heads."""
    here, bias = raw.to(block.device), block.out_bias
    return block.added(here if bias is None else here + bias).to(raw.device)


def written_by_none(clean: Capture, block: Block) -> Tensor | None:
    """What attention writes that belongs to no head: the bias of its output projection, scaled as in the clean run. Of
    a mixed block nothing: the bias is part of what is normed."""
    bias, scale = block.out_bias, clean.layers[block.layer].scale
    if bias is None or block.mixed:
        return None
    if scale is not None:
        bias = bias * (scale if isinstance(scale, float) else scale[..., None])
    return bias if (gain := block.post_gain) is None else bias * gain
