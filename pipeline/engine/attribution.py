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
from pipeline.engine.backward import LIVE, BackwardRules
from pipeline.engine.batch import Batch
from pipeline.engine.capture import LayerContext, mid_of, raw_heads
from pipeline.engine.executor import Rows, finish
from pipeline.engine.patchable import PatchableModel
from pipeline.engine.prefix import Prefix
from pipeline.engine.readout import Objective
from pipeline.engine.receiver_gradients import LayerGradients, add_receiver_gradients
from pipeline.engine.recording import recording, run_base
from pipeline.engine.senders import SenderValues, at_answer, senders_of
from pipeline.models.adapters import Block, Parts, Port

# Bytes that differences of all senders and gradients of a block of receivers may take while prompts are scored.
_CHUNK_BYTES = 2**27
# Receivers that one matrix product scores at least, where there are so many: narrow products waste most of a CPU.
_COLUMNS = 128


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
    rules: BackwardRules = LIVE,
    prefix: Prefix | None = None,
) -> tuple[Gradients, SenderValues]:
    """Gradients at the clean prompt, or with `embeddings` in place of block 0's input, and what every sender wrote.

    The batch is what comes after the `prefix`, into which no gradient reaches. `rules` say what the backward pass takes
    as constant; ModelError where the model has no place for one.
    """
    parts = model.parts
    if parts.offloaded:
        raise ModelError(
            "gradients need all weights on devices, and device_map keeps some on cpu or disk until they run (a "
            "backward pass would hold them all anyway); use edge_patching or acdc, or devices that hold the model"
        )
    with (
        torch.enable_grad(),
        rules.applied(parts),
        recording(model.hf, parts, exact=False, frozen=rules.attention == "frozen", prefix=prefix) as records,
        _leaf_input(parts, embeddings),
    ):
        hidden = run_base(model.hf, parts, batch.clean, batch)
        values = objective(at_answer(hidden, batch.answer_pos).squeeze(-2))
        layers, last = records[:-1], records[-1]
        wanted = [record[name] for record in layers for name in ("q", "k", "v", "mlp_in")] + [last["final"]]
        found = torch.autograd.grad(values.sum(), wanted, materialize_grads=rules.attention == "frozen")
    model.counters.forward_passes += batch.n_prompts
    model.counters.backward_passes += batch.n_prompts
    out = []
    with rules.applied(parts):
        for layer, (block, record) in enumerate(zip(parts.blocks, layers, strict=True)):
            q, k, v, mlp_in = found[4 * layer : 4 * layer + 4]
            ports: dict[Port, Tensor] = {
                "q": _before_norm_and_rotary(block, "q", record, q),
                "k": _before_norm_and_rotary(block, "k", record, k),
                "v": v,
            }
            resid = record["resid"].detach()
            mlp_in = mlp_in.reshape(resid.shape)
            mid = mid_of(block, record).detach()
            out.append(LayerGradients(resid, mid, ports, mlp_in, frozen=rules.norm == "frozen"))
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
    parts: Parts, graph: Graph, deltas: SenderValues, clean: SenderValues, steps: Sequence[Gradients]
) -> Iterator[Float[Tensor, "prompt edge"]]:
    """Sum over positions of difference times mean gradient over `steps`, for every prompt and edge, in chunks
    of prompts. `deltas` are differences from `clean`.

    The gradients are averaged at the receivers' inputs, not at head size: every step has its own norms. Chunks
    are as large as a budget of memory allows; when a device has less, they are halved.
    """
    n_prompts, length, d_model = deltas.input.shape
    rows_at_once = graph.n_senders + _layers_at_once(graph) * graph.receivers_per_layer + 1
    per_prompt = rows_at_once * length * d_model * deltas.input.element_size()
    size = max(1, _CHUNK_BYTES // per_prompt)
    start = 0
    while start < n_prompts:
        rows = slice(start, min(start + size, n_prompts))
        try:
            part = deltas.prompts(rows)
            in_front = (
                parts.post_norm == "mib"
            )  # where a norm follows attention; elsewhere these are the same
            met = part.written(parts) if in_front else part.written_alone(parts, clean.prompts(rows))
            differences = met.flatten(2)
            scores = _score_chunk(parts, graph, differences, rows, steps)
        except RuntimeError as error:
            if size == 1 or not is_out_of_memory(error):
                raise
            size = max(1, (rows.stop - rows.start) // 2)
            continue
        yield scores
        start = rows.stop


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a device, or the allocator of the CPU, had no memory left."""
    return isinstance(error, torch.OutOfMemoryError) or "not enough memory" in str(error)


def _layers_at_once(graph: Graph) -> int:
    return max(1, -(-_COLUMNS // graph.receivers_per_layer))


def _score_chunk(
    parts: Parts,
    graph: Graph,
    differences: Float[Tensor, "sender prompt width"],
    rows: slice,
    steps: Sequence[Gradients],
) -> Float[Tensor, "prompt edge"]:
    _, n_prompts, width = differences.shape
    d_model = steps[0].final.shape[-1]
    scores = differences.new_empty(n_prompts, graph.n_edges)
    for first in range(0, graph.n_layers, _layers_at_once(graph)):
        last = min(first + _layers_at_once(graph), graph.n_layers)
        receiver = graph.head_receiver(first, "q")
        stop = graph.n_receivers if last == graph.n_layers else graph.head_receiver(last, "q")
        differences = differences.to(parts.blocks[first].device)
        block = differences.new_empty(stop - receiver, n_prompts, width // d_model, d_model)
        for number, step in enumerate(steps):
            for layer in range(first, last):
                _add_layer(block, receiver, parts.blocks[layer], graph, step.layers[layer], rows, number)
            if last == graph.n_layers:
                final = step.final[rows].to(block.device, block.dtype)
                block[-1] = final if number == 0 else block[-1] + final
        n_senders = int(graph.senders_read[stop - 1])
        left, right = block.flatten(2).transpose(0, 1), differences[:n_senders].permute(1, 2, 0)
        products = torch.bmm(left, right) / len(steps)
        for r in _equal_prefixes(graph, receiver, stop):
            n = int(graph.senders_read[r.start])
            edges = slice(int(graph.first_edge[r.start]), int(graph.first_edge[r.stop]))
            found = products[:, r.start - receiver : r.stop - receiver, :n].flatten(1)
            scores[:, edges] = found.to(scores.device)
    return scores


def _add_layer(
    block: Float[Tensor, "receiver prompt pos d_model"],
    first_receiver: int,
    part: Block,
    graph: Graph,
    layer: LayerGradients,
    rows: slice,
    number: int,
) -> None:
    """Adds one layer's gradients of one step to the block of receivers that starts at `first_receiver`."""
    at = graph.head_receiver(part.layer, "q") - first_receiver
    out = block[at : at + graph.receivers_per_layer]
    if part.device == block.device:
        add_receiver_gradients(out, part, graph, layer, rows, fresh=number == 0)
        return
    own = torch.empty_like(out, device=part.device)
    add_receiver_gradients(own, part, graph, layer, rows, fresh=True)
    own = own.to(out.device)
    out.copy_(own) if number == 0 else out.add_(own)


def _equal_prefixes(graph: Graph, start: int, stop: int) -> Iterator[range]:
    """Runs of receivers that read the same senders."""
    first = start
    for receiver in range(start + 1, stop + 1):
        if receiver == stop or graph.senders_read[receiver] != graph.senders_read[first]:
            yield range(first, receiver)
            first = receiver
