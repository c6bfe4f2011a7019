"""Which edges of a circuit its run depends on: the others are left out, and nothing but work and rounding changes.

Knows graphs and kept edges. Does not know ablations or tensors. What is called the size of a pruned circuit is
another, coarser thing (`Circuit.pruned`).
"""

import numpy as np
from jaxtyping import Bool

from pipeline.core.graph import Graph


def without_dangling(
    graph: Graph, coupled: tuple[bool, ...], kept: Bool[np.ndarray, " edge"], *, mute: bool
) -> Bool[np.ndarray, " edge"]:
    """The kept edges that lie on a path to `logits`; with `mute` also on one from `input`.

    `mute` is for ablations under which a node that reads ablated values alone writes its own ablated value:
    `corrupted` is one, `zero` and means are not. `coupled` says for each layer whether its heads depend on each
    other: what reaches one of them then reaches all.
    """
    changed = [_changed_by(graph, coupled, receiver) for receiver in range(graph.n_receivers)]
    edges = [graph.edges_into(receiver) for receiver in range(graph.n_receivers)]
    out = kept.copy()
    live = np.zeros(graph.n_senders, dtype=bool)
    live[0] = True
    for receiver in range(graph.n_receivers if mute else 0):
        found = out[edges[receiver]]
        found &= live[: len(found)]
        live[changed[receiver]] |= found.any()
    read = np.zeros(graph.n_senders, dtype=bool)
    for receiver in reversed(range(graph.n_receivers)):  # whoever reads a sender has a higher number
        found = out[edges[receiver]]
        found &= receiver == graph.logits_receiver or read[changed[receiver]].any()
        read[: len(found)] |= found
    return out


def _changed_by(graph: Graph, coupled: tuple[bool, ...], receiver: int) -> slice:
    """Senders that may write something else when this receiver reads something else."""
    node, fed = graph.receivers[receiver], graph.senders_fed_by(receiver)
    if node.kind == "head" and node.layer is not None and coupled[node.layer]:
        return slice(graph.head_sender(node.layer), graph.mlp_sender(node.layer))
    return slice(fed.start, fed.stop)
