"""Runs in which some receivers read something else, together: paths from a sender to a set of receivers.

Two readings of a path. `edge`: nothing lies in between, each receiver reads the sender's other value and is
otherwise live. `ioi` (Wang et al. 2022, arXiv 2211.00593, appendix B): the sender's change also goes through
the MLPs and norms in between while all heads stay frozen, and each receiver is set to what it then reads.
Everything downstream of the receivers is recomputed.

Variants of a run come first. Knows captures, executor and graph; does not know signs or statistics.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.core.graph import Graph
from pipeline.engine.ablated import Ablated
from pipeline.engine.executor import Executor, finish
from pipeline.engine.paths import Patcher
from pipeline.models.adapters import Port

Reading = Literal["edge", "ioi"]
Changes = Mapping[int, Float[Tensor, "variant prompt pos d_model"]]


@torch.no_grad()
def path_values(
    patcher: Patcher, senders: Sequence[int], receivers: Sequence[int], reading: Reading
) -> Float[Tensor, "sender prompt"]:
    """The metric when the paths from each of `senders` alone to the set of receivers carry its other value."""
    make = direct_changes if reading == "edge" else changes_through_mlps
    values = []
    for part in torch.as_tensor(list(senders)).split(patcher.at_once()):
        changes = make(patcher.ablated, patcher.graph, part.tolist(), patcher.deltas[part], receivers)
        hidden = run_with_inputs(patcher.ablated, patcher.graph, changes, live=reading == "edge")
        values.append(patcher.objective(hidden))
    return torch.cat(values)


def direct_changes(
    ablated: Ablated,
    graph: Graph,
    senders: Sequence[int],
    deltas: Float[Tensor, "variant prompt pos d_model"],
    receivers: Sequence[int],
) -> dict[int, Float[Tensor, "variant prompt pos d_model"]]:
    """What each receiver reads more than in the base run: the sender's change, if it reads the sender at all."""
    del ablated
    index = torch.as_tensor(senders, device=deltas.device)
    out = {}
    for receiver in receivers:
        reads = (index < int(graph.senders_read[receiver]))[:, None, None, None]
        out[receiver] = torch.where(reads, deltas, torch.zeros((), dtype=deltas.dtype, device=deltas.device))
    return out


def changes_through_mlps(
    ablated: Ablated,
    graph: Graph,
    senders: Sequence[int],
    deltas: Float[Tensor, "variant prompt pos d_model"],
    receivers: Sequence[int],
) -> dict[int, Float[Tensor, "variant prompt pos d_model"]]:
    """What each receiver reads more than in the base run when all heads are frozen and MLPs are recomputed."""
    base, executor, wanted = ablated.base, ablated.executor, set(receivers)
    starts = torch.as_tensor(senders, device=deltas.device)
    change = torch.zeros_like(deltas)

    def arrived(sender: range) -> Tensor:
        """True for variants whose sender writes here."""
        return ((starts >= sender.start) & (starts < sender.stop))[:, None, None, None]

    change = torch.where(arrived(range(1)), deltas, change)
    out = {}
    for layer in range(graph.n_layers):
        record, mlp = base.layers[layer], graph.mlp_receiver(layer)
        change = change.to(record.resid.device)
        here = deltas.to(change.device)
        heads = range(graph.head_sender(layer), graph.mlp_sender(layer))
        for receiver in wanted & set(range(graph.head_receiver(layer, "q"), mlp)):
            out[receiver] = change
        after = torch.where(arrived(heads).to(change.device), here, change)
        at_mlp = change if graph.parallel else after
        if mlp in wanted:
            out[mlp] = at_mlp
        recomputed = executor.mlp(layer, record.mid + at_mlp) - executor.mlp(layer, record.mid)
        sender = graph.mlp_sender(layer)
        change = torch.where(arrived(range(sender, sender + 1)).to(change.device), here, after + recomputed)
    if graph.logits_receiver in wanted:
        out[graph.logits_receiver] = change.to(base.final.device)
    return out


def run_with_inputs(
    ablated: Ablated, graph: Graph, changes: Changes, *, live: bool
) -> Float[Tensor, "variant prompt *read d_model"]:
    """Final hidden states at the answer when some receivers read the base run plus a change, or (`live`) what they
    would read in this run plus a change. All other receivers read what this run makes."""
    base, executor = ablated.base, ablated.executor
    first = min(graph.n_layers if (layer := graph.receivers[r].layer) is None else layer for r in changes)
    n_variants = len(next(iter(changes.values())))
    start = base.final if first == graph.n_layers else base.layers[first].resid
    x = start.expand(n_variants, *start.shape)
    for layer in range(first, graph.n_layers):
        x = _block(executor, ablated, graph, layer, x.to(executor.parts.blocks[layer].device), changes, live)
    final = graph.logits_receiver
    if final in changes:
        read = x if live else base.final
        x = read.to(base.final.device) + changes[final].to(base.final.device)
    return executor.rest(graph.n_layers, x)


def _block(
    executor: Executor,
    ablated: Ablated,
    graph: Graph,
    layer: int,
    x: Float[Tensor, "variant prompt pos d_model"],
    changes: Changes,
    live: bool,
) -> Float[Tensor, "variant prompt pos d_model"]:
    """A whole block of which some receivers read something else."""
    block, record, rows = executor.parts.blocks[layer], ablated.base.layers[layer], executor.every[layer]
    heads, ports = range(graph.n_heads), dict[Port, Tensor]()
    names: tuple[Port, ...] = ("q", "k", "v")
    normed = block.norm1(x)[None]
    first, mlp = graph.head_receiver(layer, "q"), graph.mlp_receiver(layer)
    for port in names:
        ports[port] = executor.project_raw(layer, port, heads, normed)
    for receiver in (r for r in changes if first <= r < mlp):
        port = cast("Port", graph.receivers[receiver].port)
        fed = graph.heads_fed_by(receiver)
        read = (x if live else record.resid) + changes[receiver].to(x.device)
        ports[port][fed.start : fed.stop] = executor.project_raw(
            layer, port, fed[:1], block.norm1(read)[None]
        )
    q, k, v = (finish(block, port, raw, rows, heads) for port, raw in ports.items())
    z = rows.attend(q, k, v, heads)
    mid = x + executor.attention(layer, executor.attention_raw(layer, z))
    read = x if block.parallel else mid
    if mlp in changes:
        read = (read if live else record.mid) + changes[mlp].to(x.device)
    return mid + executor.mlp(layer, read)
