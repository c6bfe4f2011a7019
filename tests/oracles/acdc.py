"""ACDC as the paper has it: one full forward per edge, nothing skipped, nothing remembered. An oracle.

Receivers from the output back: logits; for the last layer first: the MLP, q from the highest head down, then
k, then v likewise. Senders latest first. An edge goes when the harm of removing it is strictly below the
threshold.
"""

from collections.abc import Callable, Sequence

import numpy as np

from pipeline.core.graph import Graph

Visit = tuple[int, Sequence[int]]  # a receiver, and its senders in the order of their tests


def visits(graph: Graph, order: str = "late_first") -> list[Visit]:
    """All receivers with all their senders; `early_first` takes heads, and senders, from the first to the last."""

    def turned(numbers: range) -> list[int]:
        return list(numbers) if order == "early_first" else list(numbers)[::-1]

    receivers = [graph.logits_receiver]
    for layer in reversed(range(graph.n_layers)):
        receivers.append(graph.mlp_receiver(layer))
        receivers += [graph.head_receiver(layer, "q", h) for h in turned(range(graph.n_heads))]
        receivers += [graph.head_receiver(layer, "k", h) for h in turned(range(graph.n_ports))]
        receivers += [graph.head_receiver(layer, "v", h) for h in turned(range(graph.n_ports))]
    return [(receiver, turned(range(int(graph.senders_read[receiver])))) for receiver in receivers]


def naive_acdc(
    harm: Callable[[np.ndarray], float],
    graph: Graph,
    threshold: float,
    rule: str = "signed",
    order: Sequence[Visit] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Kept edges, and the harm that each edge's removal did when it was tested.

    `harm(kept)` is the mean over prompts of a metric turned so that more is worse. `rule` signed compares the
    change with the threshold, absolute its size. `order` is another one than that above.
    """
    kept = np.ones(graph.n_edges, dtype=bool)
    delta = np.full(graph.n_edges, np.nan)
    current = harm(kept)
    for receiver, senders in order or visits(graph):
        for sender in senders:
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
