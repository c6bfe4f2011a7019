"""In which order a search visits receivers, and the senders of each.

Knows the graph. Does not know what is asked, nor what is decided.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipeline.core.graph import Graph

Order = Literal["late_first", "early_first", "random"]


@dataclass(frozen=True)
class Visits:
    """In which order receivers, and the senders of each, are visited: always from the output to the input.

    `late_first`: heads and senders from the last to the first; `early_first`: from the first to the last;
    `random`: shuffled by `seed`. A layer's MLP comes before its heads, `<q>` before `<k>` before `<v>`.
    """

    order: Order = "late_first"
    seed: int = 0

    def receivers(self, graph: Graph) -> Iterator[int]:
        yield graph.logits_receiver
        for layer in reversed(range(graph.n_layers)):
            yield graph.mlp_receiver(layer)
            ports: tuple[tuple[Literal["q", "k", "v"], int], ...]
            ports = (("q", graph.n_heads), ("k", graph.n_ports), ("v", graph.n_ports))
            for port, heads in ports:
                first = graph.head_receiver(layer, port)
                yield from self._ordered(range(first, first + heads), key=first)

    def senders(self, graph: Graph, receiver: int) -> list[int]:
        return self._ordered(range(int(graph.senders_read[receiver])), key=graph.n_receivers + receiver)

    def _ordered(self, items: range, key: int) -> list[int]:
        if self.order == "late_first":
            return list(reversed(items))
        if self.order == "early_first":
            return list(items)
        return [items[i] for i in np.random.default_rng([self.seed, key]).permutation(len(items))]


LATE_FIRST = Visits()
