"""The main heads of a circuit in words: what each reads and writes there, and where it looks.

    a23.h3 (0.93): reads m0 by <v>; writes to logits; looks from the last token at io (0.71), as a name mover does

Knows circuits, scores and a task's names for ways of looking. Does not know models: attention comes in as numbers.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from pipeline.core.circuit import Circuit
from pipeline.core.graph import Edge, Node
from pipeline.core.ways import Way

AT_LEAST = 0.2  # the share of attention from which on a way of looking is said
_SHOWN = 3  # neighbours that are named on either side


def main_heads(circuit: Circuit, score: Float[np.ndarray, " edge"], count: int = 8) -> list[tuple[int, int]]:
    """(layer, head) of the heads of a circuit without its dangling nodes, the one first whose edges have the largest
    sum of |score|."""
    graph, edges = circuit.graph, np.flatnonzero(circuit.pruned.mask)
    size = np.bincount(
        graph.edge_senders[edges], np.nan_to_num(np.abs(score[edges])), minlength=graph.n_senders
    )
    order = np.argsort(-size, kind="stable")
    nodes = [graph.senders[i] for i in order if size[i] > 0 and graph.senders[i].kind == "head"]
    return [(int(node.layer or 0), int(node.head or 0)) for node in nodes[:count]]


def described(
    circuit: Circuit,
    score: Float[np.ndarray, " edge"],
    heads: Sequence[tuple[int, int]],
    ways: Sequence[Way],
    looks: Float[np.ndarray, "head way"],
) -> list[dict[str, Any]]:
    """A row per head: head score reads writes looks called words. `looks` are the shares of attention of the ways."""
    edges = [circuit.graph.edge(int(i)) for i in np.flatnonzero(circuit.pruned.mask)]
    rows = []
    for (layer, head), shares in zip(heads, looks, strict=True):
        written = [edge for edge in edges if _is_head(edge.sender, layer, head)]
        read = [edge for edge in edges if _is_head(edge.receiver, layer, head)]
        known = sorted(
            ((float(share), way) for share, way in zip(shares, ways, strict=True) if share >= AT_LEAST),
            key=lambda pair: -pair[0],
        )
        row: dict[str, Any] = {
            "head": f"a{layer}.h{head}",
            "score": float(np.nansum([score[edge.id] for edge in written])),
            "reads": [f"{edge.sender.name} by <{edge.receiver.port}>" for edge in _strongest(read, score)],
            "writes": [edge.receiver.name for edge in _strongest(written, score)],
            "looks": {
                f"{way.source}->{way.target}": None if np.isnan(share) else float(share)
                for way, share in zip(ways, shares, strict=True)
            },
            "called": [way.called for _, way in known],
        }
        rows.append(row | {"words": _words(row, known)})
    return rows


def _is_head(node: Node, layer: int, head: int) -> bool:
    return node.kind == "head" and not node.grouped and (node.layer, node.head) == (layer, head)


def _strongest(edges: Sequence[Edge], score: Float[np.ndarray, " edge"]) -> list[Edge]:
    return sorted(edges, key=lambda edge: -abs(np.nan_to_num(score[edge.id])))[:_SHOWN]


def _words(row: Mapping[str, Any], known: Sequence[tuple[float, Way]]) -> str:
    hurts = " against the behaviour" if row["score"] < 0 else ""
    parts = [f"reads {', '.join(row['reads'])}"] if row["reads"] else []
    parts.append(f"writes{hurts} to {', '.join(row['writes'])}")
    parts += [
        f"looks from {way.source} at {way.target} ({share:.0%}), as {_with_article(way.called)} does"
        for share, way in known
    ]
    return f"{row['head']} ({row['score']:+.2f}): {'; '.join(parts)}"


def _with_article(noun: str) -> str:
    return f"{'an' if noun[0].lower() in 'aeiou' or noun.startswith('S-') else 'a'} {noun}"
