"""A circuit: a set of edges of a graph, how scores select it, and what remains once dangling nodes go.

Knows graphs and scores. Does not know how faithful a circuit is (`pipeline.evaluation`).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float

from pipeline.core.errors import CircuitsError
from pipeline.core.exported import acdc_json, auto_circuit_json, mib_json, to_networkx
from pipeline.core.graph import Edge, Graph
from pipeline.core.scores import EdgeScores, rank_order
from pipeline.core.selection import select
from pipeline.core.showing import page

if TYPE_CHECKING:
    import networkx as nx
    from pandas import DataFrame


@dataclass(frozen=True, eq=False)
class Circuit:
    """The edges of `graph` for which `mask` is true; `score` (NaN where unknown) travels along for export."""

    graph: Graph
    mask: Bool[np.ndarray, " edge"]
    score: Float[np.ndarray, " edge"] | None = None

    def __post_init__(self) -> None:
        if self.mask.shape != (self.graph.n_edges,) or self.mask.dtype != np.bool_:
            raise ValueError(f"a circuit needs one boolean for each of {self.graph.n_edges} edges")

    def __repr__(self) -> str:
        sizes = f"{self.n_edges:,} of {self.graph.n_edges:,} edges"
        return f"Circuit({sizes}, {self.pruned.n_edges:,} without dangling nodes)"

    def _repr_html_(self) -> str:
        return page(self, self.to_frame())

    def to_frame(self) -> "DataFrame":
        """A row per edge of the circuit, the strongest first: edge_id edge score."""
        import pandas as pd

        score = np.full(len(self.mask), np.nan) if self.score is None else self.score
        ids = np.flatnonzero(self.mask)
        ids = ids[rank_order(score[ids])]
        edges = [self.graph.edge_name(int(i)) for i in ids]
        return pd.DataFrame({"edge_id": ids, "edge": edges, "score": score[ids]})

    @staticmethod
    def from_scores(
        scores: EdgeScores,
        *,
        top: int | None = None,
        threshold: float | None = None,
        rank: str = "absolute",
    ) -> "Circuit":
        """The `top` edges by rank, or those of |score| (score when signed) >= `threshold`, or the kept set. `rank` is
        one of the rules of `pipeline.core.selection`.

        Without `top` and `threshold` the scores must come from a method that decides (ACDC). Edges that no
        method measured are never selected by rank.
        """
        graph, score = scores.graph, np.asarray(scores.score, dtype=np.float64)
        if top is not None and threshold is not None:
            raise CircuitsError("select a circuit by top or by threshold, not by both")
        if top is not None:
            if not 0 <= top <= graph.n_edges:
                raise CircuitsError(f"top={top} edges of a graph that has {graph.n_edges}")
            mask = select(scores, top, rank)
        elif threshold is not None:
            key = np.abs(score) if rank == "absolute" else score
            mask = np.nan_to_num(key, nan=-np.inf) >= threshold
        elif scores.kept is not None:
            mask = np.asarray(scores.kept, dtype=bool)
        else:
            raise CircuitsError("these scores decide nothing: give top=... (edges) or threshold=... (score)")
        return Circuit(graph, mask, score)

    @property
    def n_edges(self) -> int:
        return int(self.mask.sum())

    @property
    def edges(self) -> tuple[Edge, ...]:
        return tuple(self.graph.edge(int(i)) for i in np.flatnonzero(self.mask))

    @property
    def edge_names(self) -> tuple[str, ...]:
        return tuple(self.graph.edge_names[i] for i in np.flatnonzero(self.mask))

    def __iter__(self) -> Iterator[Edge]:
        return iter(self.edges)

    def __len__(self) -> int:
        return self.n_edges

    @cached_property
    def pruned(self) -> "Circuit":
        """The circuit without dangling nodes: what still lies on a path from `input` to `logits`.

        As EAP-IG and MIB: repeat until stable, a node stays when it has an incoming and an outgoing edge
        (`input` needs none in, `logits` none out); an edge goes with either end. A head stays with any one
        port. Under `corrupted` ablation that changes nothing but the size; under the others a node without
        inputs still writes something of its own, and faithfulness is measured on all edges of the circuit.
        """
        graph, mask = self.graph, self.mask.copy()
        while True:
            has_out = np.zeros(graph.n_senders, dtype=bool)
            has_out[graph.edge_senders[mask]] = True
            has_in = np.zeros(graph.n_senders, dtype=bool)
            has_in[0] = True
            for receiver in np.unique(graph.edge_receivers[mask]):
                fed = graph.senders_fed_by(int(receiver))
                has_in[fed.start : fed.stop] = True
            alive = has_out & has_in
            receiver_alive = np.asarray([self._feeds_alive(r, has_out) for r in range(graph.n_receivers)])
            stays = mask & alive[graph.edge_senders] & receiver_alive[graph.edge_receivers]
            if (stays == mask).all():
                return Circuit(graph, mask, self.score)
            mask = stays

    def _feeds_alive(self, receiver: int, has_out: Bool[np.ndarray, " sender"]) -> bool:
        if receiver == self.graph.logits_receiver:
            return True
        fed = self.graph.senders_fed_by(receiver)
        return bool(has_out[fed.start : fed.stop].any())

    def to_mib_json(self) -> dict[str, Any]:
        """The circuit as EAP-IG and the MIB leaderboard read it (`exported.mib_json`)."""
        return mib_json(self.graph, self.mask, self.score)

    def to_acdc_json(self) -> list[Any]:
        """The circuit as the edges of ACDC (`exported.acdc_json`)."""
        return acdc_json(self.graph, self.mask, self.score)

    def to_auto_circuit_json(self) -> dict[str, Any]:
        """The circuit and its scores as auto-circuit's (`exported.auto_circuit_json`)."""
        return auto_circuit_json(self.graph, self.mask, self.score)

    def to_networkx(self) -> "nx.MultiDiGraph":
        """The circuit as a graph of networkx (`exported.to_networkx`)."""
        return to_networkx(self.graph, self.mask, self.score)
