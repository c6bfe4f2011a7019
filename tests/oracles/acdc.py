"""ACDC as the paper has it: one full forward per edge, nothing skipped, nothing remembered. An oracle.

Receivers from the output back: logits; for the last layer first: the MLP, q from the highest head down, then
k, then v likewise. Senders latest first. An edge goes when the harm of removing it is strictly below the
threshold.
"""

from collections.abc import Callable

import numpy as np

from pipeline.core.graph import Graph


def receiver_order(graph: Graph) -> list[int]:
    order = [graph.logits_receiver]
    for layer in reversed(range(graph.n_layers)):
        order.append(graph.mlp_receiver(layer))
        order += [graph.head_receiver(layer, "q", h) for h in reversed(range(graph.n_heads))]
        order += [graph.head_receiver(layer, "k", h) for h in reversed(range(graph.n_ports))]
        order += [graph.head_receiver(layer, "v", h) for h in reversed(range(graph.n_ports))]
    return order


def naive_acdc(
    harm: Callable[[np.ndarray], float], graph: Graph, threshold: float, rule: str = "signed"
) -> tuple[np.ndarray, np.ndarray]:
    """Kept edges, and the harm that each edge's removal did when it was tested.

    `harm(kept)` is the mean over prompts of a metric turned so that more is worse. `rule` signed compares the
    change with the threshold, absolute its size.
    """
    kept = np.ones(graph.n_edges, dtype=bool)
    delta = np.full(graph.n_edges, np.nan)
    current = harm(kept)
    for receiver in receiver_order(graph):
        for sender in reversed(range(int(graph.senders_read[receiver]))):
            edge = int(graph.first_edge[receiver]) + sender
            kept[edge] = False
            value = harm(kept)
            delta[edge] = value - current
            worse = abs(delta[edge]) if rule == "absolute" else delta[edge]
            if worse < threshold:
                current = value
            else:
                kept[edge] = True
    return kept, delta
