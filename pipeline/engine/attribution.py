"""Gradients of a metric with respect to every receiver's input, and their products with what ablation changes.

One stock forward and backward gives the gradient at the outputs of q, k and v (head size) and of the norms;
the gradient at a receiver's own input is that times its projection, through the Jacobian of the norm at the
residual it read. Norms are live, not frozen. The scores of all edges into a block of receivers are then one
matrix product per prompt.

Knows captures, graph and norms. Does not know integration paths or methods.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.core.errors import ModelError
from pipeline.core.graph import Graph
from pipeline.engine.backward import LIVE, BackwardRules
from pipeline.engine.batch import Batch
from pipeline.engine.passes import Layers, Passes
from pipeline.engine.patchable import PatchableModel
from pipeline.engine.prefix import Prefix
from pipeline.engine.products import batched
from pipeline.engine.readout import Objective
from pipeline.engine.receiver_gradients import LayerGradients, add_receiver_gradients
from pipeline.engine.senders import SenderValues
from pipeline.models.adapters import Block, Parts

# Bytes that differences of all senders and gradients of a block of receivers may take while prompts are scored.
_CHUNK_BYTES = 2**27
# Receivers that one matrix product scores at least, where there are so many: narrow products waste most of a CPU.
_COLUMNS = 128


@dataclass(frozen=True)
class Gradients:
    """One backward pass of a metric, at head size. `values` are the metric's values at that point."""

    layers: Layers
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
    model.counters.forward_passes += batch.n_prompts
    model.counters.backward_passes += batch.n_prompts
    passes = Passes(model.hf, parts, batch, rules, prefix)
    backward: Callable[[Tensor], tuple[Layers, Tensor]]
    if model.graphs is None or prefix is None or rules != LIVE:
        hidden, senders, backward = passes.forward(embeddings)
    else:
        hidden, senders, backward = model.graphs.forward(passes, embeddings)
    with torch.enable_grad():
        values = objective(hidden)
    layers, final = backward(torch.autograd.grad(values.sum(), hidden)[0])
    return Gradients(layers, final, values.detach()), senders


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
    # room for one block after the other: new memory is dear where it is large
    at_most = min(_layers_at_once(graph), graph.n_layers) * graph.receivers_per_layer + 1
    room = differences.new_empty(at_most, n_prompts, width // d_model, d_model)
    for first in range(0, graph.n_layers, _layers_at_once(graph)):
        last = min(first + _layers_at_once(graph), graph.n_layers)
        receiver = graph.head_receiver(first, "q")
        stop = graph.n_receivers if last == graph.n_layers else graph.head_receiver(last, "q")
        differences = differences.to(parts.blocks[first].device)
        if room.device != differences.device:
            room = torch.empty_like(room, device=differences.device)
        block = room[: stop - receiver]
        for number, step in enumerate(steps):
            for layer in range(first, last):
                _add_layer(block, receiver, parts.blocks[layer], graph, step.layers[layer], rows, number)
            if last == graph.n_layers:
                final = step.final[rows].to(block.device, block.dtype)
                block[-1] = final if number == 0 else block[-1] + final
        n_senders = int(graph.senders_read[stop - 1])
        left, right = block.flatten(2).transpose(0, 1), differences[:n_senders].permute(1, 2, 0)
        products = batched(left, right) / len(steps)
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
