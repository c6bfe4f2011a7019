"""Which nodes are read, by walking along kept edges. An oracle of `pipeline.core.liveness`.

Knows a graph and a set of kept edges. Does not know in which order anything is decided.
"""

import functools

import numpy as np

from pipeline.core.graph import Graph


@functools.cache
def changed(graph: Graph, coupled: tuple[bool, ...], receiver: int) -> list[int]:
    """Senders that write something else when this receiver reads something else."""
    node = graph.receivers[receiver]
    if node.kind == "logits":
        return []
    group = graph.n_heads // graph.n_kv_heads

    def fed(sender) -> bool:
        if (sender.kind, sender.layer) != (node.kind, node.layer):
            return False
        if node.kind == "mlp" or coupled[node.layer]:
            return True
        return sender.head // group == node.head if node.grouped else sender.head == node.head

    return [index for index, sender in enumerate(graph.senders) if fed(sender)]


def paths_from(graph: Graph, coupled: tuple[bool, ...], kept: np.ndarray, sender: int) -> set[bool]:
    """For all paths of kept edges from a sender to the logits: whether they pass a key or a value.

    Empty where no path leads there.
    """
    found: set[bool] = set()
    seen = {(sender, False)}
    ahead = [(sender, False)]
    while ahead:
        here, passed = ahead.pop()
        for receiver in graph.edge_receivers[(graph.edge_senders == here) & kept].tolist():
            through = passed or graph.receivers[receiver].port in ("k", "v")
            if receiver == graph.logits_receiver:
                found.add(through)
            new = {(after, through) for after in changed(graph, coupled, receiver)} - seen
            seen |= new
            ahead += new
    return found


def alive_receivers(graph: Graph, coupled: tuple[bool, ...], kept: np.ndarray) -> np.ndarray:
    """Which receivers have a path of kept edges to the logits, [receiver]; one pass from the output."""
    alive = np.zeros(graph.n_receivers, dtype=bool)
    read = np.zeros(graph.n_senders, dtype=bool)
    for receiver in reversed(range(graph.n_receivers)):  # whoever reads a sender has a higher number
        alive[receiver] = receiver == graph.logits_receiver or any(read[changed(graph, coupled, receiver)])
        if alive[receiver]:
            edges = graph.edges_into(receiver)
            read[: edges.stop - edges.start] |= kept[edges]
    return alive


def live_senders(graph: Graph, coupled: tuple[bool, ...], kept: np.ndarray) -> np.ndarray:
    """Which senders have a path of kept edges from `input`, [sender]; `input` is one of them."""
    live = np.zeros(graph.n_senders, dtype=bool)
    ahead = [0]
    while ahead:
        here = ahead.pop()
        if not live[here]:
            live[here] = True
            for receiver in graph.edge_receivers[(graph.edge_senders == here) & kept].tolist():
                ahead += changed(graph, coupled, receiver)
    return live
