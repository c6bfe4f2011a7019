"""What a circuit's run has to compute: the edges it depends on, the senders that somebody reads, and where.

Knows graphs and kept edges, many circuits at once and a layer at a time. Does not know ablations, weights of edges or
tensors. What is called the size of a pruned circuit is another, coarser thing (`Circuit.pruned`).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from pipeline.core.graph import Graph

Table = Bool[np.ndarray, "circuit receiver sender"]

# Bytes of the tables that are looked at together.
_TABLE_BYTES = 2**28


@dataclass(frozen=True, eq=False)
class Wiring:
    """One circuit without what it does not depend on.

    `table` says which receiver reads which sender. A sender is `read` when some receiver reads it, and needed
    `everywhere` when a key or a value does, directly or through others; all others are needed at the answer alone.
    Where the heads of a layer depend on each other (`coupled`) they are needed everywhere together.
    """

    graph: Graph
    table: Bool[np.ndarray, "receiver sender"]
    read: Bool[np.ndarray, " sender"]
    everywhere: Bool[np.ndarray, " sender"]

    @property
    def mask(self) -> Bool[np.ndarray, " edge"]:
        """The edges that the run depends on."""
        kept: Bool[np.ndarray, " edge"] = self.table[self.graph.edge_receivers, self.graph.edge_senders]
        return kept


def wire(
    graph: Graph, coupled: tuple[bool, ...], masks: Bool[np.ndarray, "circuit edge"], *, mute: bool
) -> list[Wiring]:
    """The circuits of `masks`: of their edges those on a path to `logits`; with `mute` also on one from `input`.

    `mute` is for ablations under which a node that reads ablated values alone writes its own ablated value:
    `corrupted` is one, `zero` and means are not. `coupled` says for each layer whether its heads depend on each
    other: what reaches one of them then reaches all.
    """
    found = []
    at_once = max(1, _TABLE_BYTES // (graph.n_receivers * graph.n_senders))
    for start in range(0, len(masks), at_once):
        some = masks[start : start + at_once]
        table = np.zeros((len(some), graph.n_receivers, graph.n_senders), dtype=bool)
        table[:, graph.edge_receivers, graph.edge_senders] = some
        if mute:
            _forget_mute(graph, coupled, table)
        read, everywhere = _forget_unread(graph, coupled, table)
        found += [Wiring(graph, *one) for one in zip(table, read, everywhere, strict=True)]
    return found


@dataclass(frozen=True)
class _Ports:
    """The receivers of one port of a layer, and the heads that each of them feeds."""

    receivers: slice
    group: int  # heads that share a receiver

    def fed(self, reached: Bool[np.ndarray, "circuit port"]) -> Bool[np.ndarray, "circuit head"]:
        return reached.repeat(self.group, -1)

    def of(self, heads: Bool[np.ndarray, "circuit head"]) -> Bool[np.ndarray, "circuit port"]:
        return np.logical_or.reduce(heads.reshape(len(heads), -1, self.group), -1)


def _ports(graph: Graph, layer: int) -> Iterator[tuple[str, _Ports]]:
    group = graph.n_heads // graph.n_ports
    starts = {"q": graph.head_receiver(layer, "q"), "k": graph.head_receiver(layer, "k")}
    starts["v"] = graph.head_receiver(layer, "v")
    stops = (starts["k"], starts["v"], graph.mlp_receiver(layer))
    for (port, start), stop in zip(starts.items(), stops, strict=True):
        yield port, _Ports(slice(start, stop), 1 if port == "q" else group)


def _forget_mute(graph: Graph, coupled: tuple[bool, ...], table: Table) -> None:
    """Takes out, in place, edges from senders that nothing of the input reaches."""
    live = np.zeros((len(table), graph.n_senders), dtype=bool)
    live[:, 0] = True

    def reached(receivers: slice) -> Bool[np.ndarray, "circuit receiver"]:
        rows = table[:, receivers]
        rows &= live[:, None]
        return np.logical_or.reduce(rows, -1)

    for layer in range(graph.n_layers):
        fed = [ports.fed(reached(ports.receivers)) for _, ports in _ports(graph, layer)]
        heads = np.logical_or.reduce(fed)
        if coupled[layer]:
            heads |= heads.any(-1, keepdims=True)
        live[:, graph.head_sender(layer) : graph.mlp_sender(layer)] = heads
        mlp = graph.mlp_receiver(layer)
        live[:, graph.mlp_sender(layer)] = reached(slice(mlp, mlp + 1))[:, 0]
    reached(slice(graph.logits_receiver, graph.logits_receiver + 1))


def _forget_unread(
    graph: Graph, coupled: tuple[bool, ...], table: Table
) -> tuple[Bool[np.ndarray, "circuit sender"], Bool[np.ndarray, "circuit sender"]]:
    """Takes out, in place, edges into receivers that change nothing at the logits; says which senders are read, and
    which of them everywhere."""
    read = table[:, graph.logits_receiver].copy()
    everywhere = np.zeros_like(read)

    def reading(receivers: slice, counts: Bool[np.ndarray, "circuit receiver"], full: np.ndarray) -> None:
        rows = table[:, receivers]
        rows &= counts[..., None]
        nonlocal read, everywhere
        read |= rows.any(1)
        everywhere |= (rows & full[..., None]).any(1)

    for layer in reversed(range(graph.n_layers)):
        mlp, sender = graph.mlp_receiver(layer), graph.mlp_sender(layer)
        reading(slice(mlp, mlp + 1), read[:, sender, None], everywhere[:, sender, None])
        heads = slice(graph.head_sender(layer), sender)
        counts = read[:, heads]
        if coupled[layer]:
            counts = counts | counts.any(-1, keepdims=True)
            everywhere[:, heads] |= everywhere[:, heads].any(-1, keepdims=True)
        full = everywhere[:, heads]
        for port, ports in _ports(graph, layer):
            all_rows = full if port == "q" else np.ones_like(ports.of(counts))
            reading(ports.receivers, ports.of(counts), all_rows)
    return read, everywhere & read
