"""Gradients of a metric with respect to every receiver's input, and their products with what ablation changes.

One stock forward and backward gives the gradient at the outputs of q, k and v (head size) and of the norms;
the gradient at a receiver's own input is that times its projection, through the Jacobian of the norm at the
residual it read. Norms are live, not frozen. The scores of all edges into a block of receivers are then one
matrix product per prompt.

Knows captures, graph and norms. Does not know integration paths or methods.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.core.errors import ModelError
from pipeline.core.graph import Graph
from pipeline.engine.batch import Batch
from pipeline.engine.capture import LayerContext, mid_of, raw_heads, recording, run_base
from pipeline.engine.executor import Rows, finish
from pipeline.engine.patchable import PatchableModel
from pipeline.engine.readout import Objective
from pipeline.engine.senders import SenderValues, at_answer, senders_of
from pipeline.models.adapters import Block, Parts, Port

# Bytes that gradients of all receivers, or differences of all senders, may take while a chunk of prompts is scored.
_CHUNK_BYTES = 2**28
# Receivers that one matrix product scores at least, where there are so many: narrow products waste most of a CPU.
_COLUMNS = 128


@dataclass(frozen=True)
class LayerGradients:
    """What one layer read, and the gradients at what its projections make (before norms and rotary embedding) and
    at what its MLP reads (after the norm)."""

    resid: Float[Tensor, "prompt pos d_model"]
    mid: Float[Tensor, "prompt pos d_model"]
    ports: dict[Port, Float[Tensor, "prompt head pos d_head"]]
    mlp_in: Float[Tensor, "prompt pos d_model"]


@dataclass(frozen=True)
class Gradients:
    """One backward pass of a metric, at head size. `values` are the metric's values at that point."""

    layers: tuple[LayerGradients, ...]
    final: Float[Tensor, "prompt pos d_model"]
    values: Float[Tensor, " prompt"]


def gradients(
    model: PatchableModel,
    batch: Batch,
    objective: Objective,
    embeddings: Float[Tensor, "prompt pos d_model"] | None = None,
) -> tuple[Gradients, SenderValues]:
    """Gradients at the clean prompt, or with `embeddings` in place of block 0's input, and what every sender wrote."""
    parts = model.parts
    if parts.offloaded:
        raise ModelError(
            "gradients need all weights on devices, and device_map keeps some on cpu or disk until they run (a "
            "backward pass would hold them all anyway); use edge_patching or acdc, or devices that hold the model"
        )
    with (
        torch.enable_grad(),
        recording(model.hf, parts, exact=False) as records,
        _leaf_input(parts, embeddings),
    ):
        hidden = run_base(model.hf, parts, batch.clean, batch)
        values = objective(at_answer(hidden, batch.answer_pos).squeeze(-2))
        layers, last = records[:-1], records[-1]
        wanted = [record[name] for record in layers for name in ("q", "k", "v", "mlp_in")] + [last["final"]]
        found = torch.autograd.grad(values.sum(), wanted)
    model.counters.forward_passes += batch.n_prompts
    model.counters.backward_passes += batch.n_prompts
    out = []
    for layer, (block, record) in enumerate(zip(parts.blocks, layers, strict=True)):
        q, k, v, mlp_in = found[4 * layer : 4 * layer + 4]
        ports: dict[Port, Tensor] = {
            "q": _before_norm_and_rotary(block, "q", record, q),
            "k": _before_norm_and_rotary(block, "k", record, k),
            "v": v,
        }
        resid = record["resid"].detach()
        mlp_in = mlp_in.reshape(resid.shape)
        out.append(LayerGradients(resid, mid_of(block, record).detach(), ports, mlp_in))
    return Gradients(tuple(out), found[-1], values.detach()), senders_of(parts, layers)


@contextmanager
def _leaf_input(parts: Parts, embeddings: Tensor | None) -> Iterator[None]:
    """While open, block 0 reads a leaf that needs a gradient: the graph starts there, weights stay frozen."""

    def replace(
        _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        x = (args[0] if args else kwargs["hidden_states"]) if embeddings is None else embeddings
        x = x.detach().requires_grad_()
        return ((x, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": x})

    # First of all hooks, so that what is recorded is the leaf.
    handle = parts.blocks[0].module.register_forward_pre_hook(replace, with_kwargs=True, prepend=True)
    try:
        yield
    finally:
        handle.remove()


def _before_norm_and_rotary(
    block: Block, port: Port, record: dict[str, Any], gradient: Tensor
) -> Float[Tensor, "prompt head pos d_head"]:
    """The gradient at what the projection of q or k made, one per query head."""
    rotary = record["rotary"]
    if rotary is None and block.q_norm is None and block.q_scale == 1.0:
        return gradient
    context = LayerContext(None, rotary, 1.0)
    point = torch.zeros_like(gradient)  # everything but the norm is linear
    if block.q_norm is not None:
        point = raw_heads(block, record, port).detach()
    backward = torch.func.vjp(
        lambda raw: finish(block, port, raw, Rows.all(context), range(block.n_heads), head_axis=-3), point
    )[1]
    return backward(gradient)[0]


def edge_scores(
    parts: Parts, graph: Graph, deltas: SenderValues, steps: Sequence[Gradients]
) -> Iterator[Float[Tensor, "prompt edge"]]:
    """Sum over positions of difference times mean gradient over `steps`, for every prompt and edge, in chunks
    of prompts.

    The gradients are averaged at the receivers' inputs, not at head size: every step has its own norms.
    """
    n_prompts, length, d_model = deltas.input.shape
    per_prompt = max(graph.n_senders, graph.n_receivers) * length * d_model * deltas.input.element_size()
    size = max(1, _CHUNK_BYTES // per_prompt)
    for start in range(0, n_prompts, size):
        rows = slice(start, min(start + size, n_prompts))
        differences = deltas.prompts(rows).written(parts).flatten(2)
        yield _score_chunk(parts, graph, differences, rows, steps)


def _score_chunk(
    parts: Parts,
    graph: Graph,
    differences: Float[Tensor, "prompt sender width"],
    rows: slice,
    steps: Sequence[Gradients],
) -> Float[Tensor, "prompt edge"]:
    n_prompts, _, width = differences.shape
    scores = differences.new_empty(n_prompts, graph.n_edges)
    layers_at_once = max(1, -(-_COLUMNS // graph.receivers_per_layer))
    starts = list(range(0, graph.n_layers, layers_at_once))
    for first in starts:
        last = min(first + layers_at_once, graph.n_layers)
        receiver = graph.head_receiver(first, "q")
        stop = graph.n_receivers if last == graph.n_layers else graph.head_receiver(last, "q")
        differences = differences.to(parts.blocks[first].device)
        block = differences.new_zeros(n_prompts, stop - receiver, width)
        for step in steps:
            for layer in range(first, last):
                at = graph.head_receiver(layer, "q") - receiver
                at_inputs = _receiver_gradients(parts.blocks[layer], graph, step.layers[layer], rows).flatten(
                    2
                )
                block[:, at : at + at_inputs.shape[1]] += at_inputs.to(block.device)
            if last == graph.n_layers:
                block[:, -1] += step.final[rows].flatten(1).to(block.device)
        n_senders = int(graph.senders_read[stop - 1])
        products = torch.bmm(block, differences[:, :n_senders].transpose(1, 2)) / len(steps)
        for r in _equal_prefixes(graph, receiver, stop):
            n = int(graph.senders_read[r.start])
            edges = slice(int(graph.first_edge[r.start]), int(graph.first_edge[r.stop]))
            scores[:, edges] = (
                products[:, r.start - receiver : r.stop - receiver, :n].flatten(1).to(scores.device)
            )
    return scores


def _equal_prefixes(graph: Graph, start: int, stop: int) -> Iterator[range]:
    """Runs of receivers that read the same senders."""
    first = start
    for receiver in range(start + 1, stop + 1):
        if receiver == stop or graph.senders_read[receiver] != graph.senders_read[first]:
            yield range(first, receiver)
            first = receiver


def _receiver_gradients(
    block: Block, graph: Graph, layer: LayerGradients, rows: slice
) -> Float[Tensor, "prompt receiver pos d_model"]:
    """Gradients at the inputs of all receivers of a layer, in receiver order."""
    normed = []
    projections = block.projections
    for port, gradient in layer.ports.items():
        g, weight = gradient[rows], projections.weights[port]
        if port != "q" and graph.n_ports == graph.n_heads and block.kv_group > 1:
            weight = weight.repeat_interleave(block.kv_group, 0)
        elif port != "q" and block.kv_group > 1:
            g = g.unflatten(1, (graph.n_ports, block.kv_group)).sum(2)
        normed.append(torch.matmul(g, weight))
    heads = _through_norm(block.norm1, layer.resid[rows], torch.cat(normed, 1))
    mlp = _through_norm(block.norm2, layer.mid[rows], layer.mlp_in[rows][:, None])
    return torch.cat([heads, mlp], 1)


def _through_norm(
    norm: nn.Module,
    x: Float[Tensor, "prompt pos d_model"],
    gradient: Float[Tensor, "prompt receiver pos d_model"],
) -> Float[Tensor, "prompt receiver pos d_model"]:
    """Gradients at the input of a norm, for many receivers that all read `x` through it."""
    if isinstance(norm, nn.Identity):
        return gradient
    backward = torch.func.vjp(norm, x)[1]
    return torch.vmap(lambda g: backward(g)[0], in_dims=1, out_dims=1)(gradient)
