"""Which edges a circuit of a given size has, by rule.

Knows scores and the graph. Does not know how faithful a circuit is (`pipeline.evaluation`).

| rule | takes |
|---|---|
| absolute | the largest by |score| (CMD of the MIB benchmark) |
| signed | the largest by score (its CPR): an edge that works against the behaviour is left out |
| greedy | from the logits on, always the largest by |score| among the edges into nodes that are reached (EAP-IG's) |
| greedy_signed | the same by score |
| positive_half | half of them by score among those above zero, the rest by |score| (arXiv 2510.25786) |
| stable_sign | by |score| among those whose 95 % interval leaves out zero (Student's, over prompts); may be fewer |
| ilp | of all sets of so many edges in which every node is read and reads, the one of the largest sum of |score| |
"""

import heapq
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from pipeline.core.errors import CircuitsError
from pipeline.core.graph import Graph
from pipeline.core.intervals import t_95
from pipeline.core.scores import rank_order

if TYPE_CHECKING:
    from pipeline.core.scores import EdgeScores

Rank = Literal["absolute", "signed", "greedy", "greedy_signed", "positive_half", "stable_sign", "ilp"]

SPREAD = "stable_sign"  # the rule that reads the spread over prompts
# The ILP sees so many times as many edges as it may take, the largest by |score|: its time grows with them. Its work is
# limited by nodes of the search, not by time: the same set on every machine.
_PREFILTER, _LEAST, _SEARCH_NODES = 20, 2_000, 2_000


def select(scores: "EdgeScores", n: int, rule: str = "absolute") -> Bool[np.ndarray, " edge"]:
    """At most `n` edges by a rule of the table above; edges that were not measured are never among them."""
    if rule not in RULES:
        raise CircuitsError(f"rank is one of {', '.join(RULES)}, not {rule!r}")
    measured = ~np.isnan(np.asarray(scores.score, dtype=np.float64))
    return np.asarray(RULES[rule](scores, n) & measured, dtype=np.bool_)


def _top(graph: Graph, ids: Int[np.ndarray, " chosen"]) -> Bool[np.ndarray, " edge"]:
    mask = np.zeros(graph.n_edges, dtype=bool)
    mask[ids] = True
    return mask


def _largest(worth: Float[np.ndarray, " edge"], n: int) -> Bool[np.ndarray, " edge"]:
    """The first `n` of `rank_order` without ordering them: ties go to the lower edge id."""
    worth = np.where(np.isnan(worth), -np.inf, worth)
    n = min(n, len(worth))
    if not n:
        return np.zeros(len(worth), dtype=bool)
    least = np.partition(worth, len(worth) - n)[len(worth) - n]
    mask = worth > least
    mask[np.flatnonzero(worth == least)[: n - int(mask.sum())]] = True
    return mask


def _absolute(scores: "EdgeScores", n: int) -> Bool[np.ndarray, " edge"]:
    return _largest(np.abs(_score(scores)), n)


def _signed(scores: "EdgeScores", n: int) -> Bool[np.ndarray, " edge"]:
    return _largest(_score(scores), n)


def _positive_half(scores: "EdgeScores", n: int) -> Bool[np.ndarray, " edge"]:
    score = _score(scores)
    by_sign = rank_order(score, "signed")[: n // 2]
    first = by_sign[score[by_sign] > 0]
    taken = _top(scores.graph, first)
    rest = rank_order(np.where(taken, np.nan, score))[: n - len(first)]
    return taken | _top(scores.graph, rest)


def _stable_sign(scores: "EdgeScores", n: int) -> Bool[np.ndarray, " edge"]:
    counts = np.asarray(scores.n_prompts)
    score = _score(scores)
    with np.errstate(invalid="ignore", divide="ignore"):
        error = np.asarray(scores.std, dtype=np.float64) / np.sqrt(counts - 1.0)  # the std is over n
        stable = np.abs(score) > t_95(counts) * error
    return _top(scores.graph, rank_order(np.where(stable, score, np.nan))[:n]) & stable


def _greedy(scores: "EdgeScores", n: int) -> Bool[np.ndarray, " edge"]:
    return _from_logits(scores.graph, np.abs(_score(scores)), n)


def _greedy_signed(scores: "EdgeScores", n: int) -> Bool[np.ndarray, " edge"]:
    return _from_logits(scores.graph, _score(scores), n)


def _from_logits(graph: Graph, worth: Float[np.ndarray, " edge"], n: int) -> Bool[np.ndarray, " edge"]:
    """Best first from `logits`: a node that is reached offers all edges into all its ports."""
    ports = _ports(graph)
    order = np.where(np.isnan(worth), -np.inf, worth)
    offered: list[tuple[float, int]] = []
    mask, reached = np.zeros(graph.n_edges, dtype=bool), np.zeros(graph.n_senders, dtype=bool)

    def offer(receivers: list[int]) -> None:
        for receiver in receivers:
            if not open_[receiver]:
                open_[receiver] = True
                for edge in range(graph.first_edge[receiver], graph.first_edge[receiver + 1]):
                    heapq.heappush(offered, (-float(order[edge]), edge))

    open_ = np.zeros(graph.n_receivers, dtype=bool)
    offer([graph.logits_receiver])
    for _ in range(n):
        if not offered:
            break
        _, edge = heapq.heappop(offered)
        mask[edge] = True
        sender = int(graph.edge_senders[edge])
        if not reached[sender]:
            reached[sender] = True
            offer(ports[sender])
    return mask


def _ilp(scores: "EdgeScores", n: int) -> Bool[np.ndarray, " edge"]:
    """arXiv 2510.25786: max sum of |score| y, with y <= x of both ends and an edge in and out of every node kept."""
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import coo_matrix

    graph, size = scores.graph, np.abs(_score(scores))
    if not n:
        return np.zeros(graph.n_edges, dtype=bool)
    ids = rank_order(size)[: max(_PREFILTER * n, _LEAST)]
    ids = np.sort(ids[~np.isnan(size[ids])])
    nodes = [len(ids) + sender for sender in range(graph.n_senders)]
    rows: list[tuple[int, int, float]] = []
    upper: list[float] = []

    def limit(entries: list[tuple[int, float]], most: float) -> None:
        rows.extend((len(upper), column, value) for column, value in entries)
        upper.append(most)

    limit([(place, 1.0) for place in range(len(ids))], float(n))
    into: dict[int, list[int]] = {}
    out: dict[int, list[int]] = {}
    for place, edge in enumerate(ids):
        sender, readers = int(graph.edge_senders[edge]), graph.senders_fed_by(int(graph.edge_receivers[edge]))
        out.setdefault(sender, []).append(place)
        limit([(place, 1.0), (nodes[sender], -1.0)], 0.0)
        for reader in readers:
            into.setdefault(reader, []).append(place)
        if readers:  # a shared key or value needs one of its heads
            limit([(place, 1.0), *((nodes[reader], -1.0) for reader in readers)], 0.0)
    for sender in range(graph.n_senders):
        limit([(nodes[sender], 1.0), *((place, -1.0) for place in out.get(sender, []))], 0.0)
        if sender:  # `input` reads nothing
            limit([(nodes[sender], 1.0), *((place, -1.0) for place in into.get(sender, []))], 0.0)
    n_columns = len(ids) + graph.n_senders
    row, column, value = (np.asarray(part) for part in zip(*rows, strict=True))
    matrix = coo_matrix((value, (row, column)), shape=(len(upper), n_columns)).tocsr()
    found = milp(
        -np.concatenate([size[ids], np.zeros(graph.n_senders)]),
        integrality=np.ones(n_columns),
        bounds=Bounds(0, 1),
        constraints=LinearConstraint(matrix, -np.inf, np.asarray(upper)),
        options={"node_limit": _SEARCH_NODES, "mip_rel_gap": 1e-6},
    )
    if found.x is None:  # no path that reaches the logits has so few edges
        return np.zeros(graph.n_edges, dtype=bool)
    return _top(graph, ids[found.x[: len(ids)] > 0.5])


def _score(scores: "EdgeScores") -> Float[np.ndarray, " edge"]:
    return np.asarray(scores.score, dtype=np.float64)


def _ports(graph: Graph) -> list[list[int]]:
    """The receivers of every sender; a shared key or value belongs to all heads of its group."""
    ports: list[list[int]] = [[] for _ in range(graph.n_senders)]
    for receiver in range(graph.n_receivers):
        for sender in graph.senders_fed_by(receiver):
            ports[sender].append(receiver)
    return ports


RULES: dict[str, Callable[["EdgeScores", int], Bool[np.ndarray, " edge"]]] = {
    "absolute": _absolute,
    "signed": _signed,
    "greedy": _greedy,
    "greedy_signed": _greedy_signed,
    "positive_half": _positive_half,
    SPREAD: _stable_sign,
    "ilp": _ilp,
}
