"""Where the boxes of a circuit go. Knows geometry; draws nothing.

Rows are stages of a layer: key-value groups (only where the graph has them), heads, MLP; `input` is a bar at
the bottom and `logits` one at the top, which an edge meets wherever it is straightest. Everything is
deterministic: a few sweeps order each row by its neighbours, then a relaxation moves boxes out of the way of
passing edges; `pipeline.report.routing` leads each edge around what is left in its way.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from operator import itemgetter

import numpy as np

from pipeline.core.graph import Graph, Node
from pipeline.report.boxes import GAP_X, GUTTER, HEAD_WIDTH, HEIGHT, MARGIN, Arc, Box
from pipeline.report.routing import route


@dataclass(frozen=True)
class Drawing:
    """Everything placed, in a frame of `width` by `height`, and the bands of the layers in it."""

    boxes: tuple[Box, ...]
    arcs: tuple[Arc, ...]
    width: float
    height: float
    bands: tuple[tuple[int, float, float], ...] = field(default=())  # layer, top, bottom


def lay_out(graph: Graph, edges: Sequence[int], strength: Sequence[float]) -> Drawing:
    """Boxes and routed arcs for the edge ids `edges`; `strength` is |score|, largest drawn thickest."""
    boxes, arcs = _collect(graph, edges, strength)
    rows = sorted({box.row for box in boxes})
    members = {row: [i for i, box in enumerate(boxes) if box.row == row] for row in rows}
    widest = max(len(m) for m in members.values())
    wanted = 250 + 90 * widest + 10 * len(rows) + 6 * len(arcs)
    width = float(max(610, min(1010, wanted), (HEAD_WIDTH + GAP_X) * widest))
    tops, bands, height = _rows(rows, boxes)
    centres = _columns(boxes, arcs, members, rows, width)
    placed = []
    for i, box in enumerate(boxes):
        x = GUTTER + width / 2 if box.is_bar else GUTTER + centres[i]
        wide = width if box.is_bar else HEAD_WIDTH
        placed.append(replace(box, x=float(x), y=tops[box.row], width=wide))
    return Drawing(tuple(placed), tuple(route(placed, arcs)), GUTTER + width + MARGIN, height, bands)


def _collect(graph: Graph, edges: Sequence[int], strength: Sequence[float]) -> tuple[list[Box], list[Arc]]:
    """One box per node, one arc per edge; a key-value group is a box linked to its heads in the drawing."""
    boxes = [Box("input", "input", -1), Box("logits", "logits", graph.n_layers)]
    index = {"input": 0, "logits": 1}
    grouped = graph.kv == "kv_head"

    def box_of(node: Node) -> int:
        name = replace(node, port=None).name
        if name not in index:
            kind = "group" if node.grouped else node.kind
            ports = ("k", "v") if node.grouped else ("q",) if grouped else ("q", "k", "v")
            index[name] = len(boxes)
            boxes.append(Box(name, kind, node.layer or 0, ports if node.kind == "head" else ()))
        return index[name]

    arcs = []
    for edge_id, size in zip(edges, strength, strict=True):
        edge = graph.edge(int(edge_id))
        arcs.append(
            Arc(int(edge_id), box_of(edge.sender), box_of(edge.receiver), edge.receiver.port, float(size))
        )
    for receiver, node in enumerate(graph.receivers if grouped else ()):
        if node.grouped and node.port == "k" and (name := replace(node, port=None).name) in index:
            for sender in graph.senders_fed_by(receiver):
                if (head := graph.senders[sender].name) in index:
                    arcs.append(Arc(None, index[name], index[head], None, 0.0))  # noqa: PERF401
    order = sorted(range(len(boxes)), key=lambda i: (boxes[i].row, len(boxes[i].name), boxes[i].name))
    place = {old: new for new, old in enumerate(order)}
    return [boxes[i] for i in order], [replace(a, start=place[a.start], end=place[a.end]) for a in arcs]


def _rows(
    rows: list[tuple[int, int]], boxes: list[Box]
) -> tuple[dict[tuple[int, int], float], tuple[tuple[int, float, float], ...], float]:
    """Top of each row, the band of each layer, the height of all; few rows get more air."""
    kinds = {box.row: box.kind for box in boxes}
    air = float(np.clip(620 / len(rows) - 20, 33, 58))
    y = float(MARGIN)
    tops: dict[tuple[int, int], float] = {}
    bands: dict[int, tuple[float, float]] = {}
    for row in reversed(rows):
        tops[row] = y
        bottom = y + HEIGHT[kinds[row]]
        if kinds[row] not in ("input", "logits"):
            top = bands.get(row[0], (y - air / 2, 0))[0]
            bands[row[0]] = (top, bottom + air / 2)
        y = bottom + air
    return tops, tuple((layer, *span) for layer, span in bands.items()), y - air + MARGIN


def _columns(
    boxes: list[Box],
    arcs: list[Arc],
    members: dict[tuple[int, int], list[int]],
    rows: list[tuple[int, int]],
    width: float,
) -> np.ndarray:
    """Centre of each box within [0, width]: neighbours above each other, out of the way of passing edges."""
    x = np.full(len(boxes), width / 2)
    level = np.asarray([rows.index(box.row) for box in boxes], dtype=float)
    bar = np.asarray([box.is_bar for box in boxes])
    start, end = (np.asarray([getattr(a, side) for a in arcs]) for side in ("start", "end"))
    inner = ~bar[start] & ~bar[end]
    weight = np.sqrt([max(a.strength, 0.0) for a in arcs])
    weight = 0.15 + weight / (weight.max() or 1.0)
    lanes = [np.asarray(m) for row, m in members.items() if not boxes[m[0]].is_bar]
    for lane in lanes:
        x[lane] = (np.arange(len(lane)) + 0.5) * width / len(lane)

    near = {int(i): _neighbours(int(i), start, end, weight, inner) for lane in lanes for i in lane}
    for sweep in range(12):  # order each row by the mean place of its neighbours
        for lane in lanes if sweep % 2 else reversed(lanes):
            for i in lane.tolist():
                others, shares = near[i]
                if len(others):
                    x[i] = 0.3 * x[i] + 0.7 * (shares @ x[others])
            _separate(x, lane, width)

    between = (
        (level[None, :] > level[start][:, None]) & (level[None, :] < level[end][:, None]) & ~bar[None, :]
    )
    u = (level[None, :] - level[start][:, None]) / np.maximum(level[end] - level[start], 1)[:, None]
    u = np.clip(u * u * (3 - 2 * u), 0, 1)
    reach = HEAD_WIDTH / 2 + 10
    turns = np.where(np.arange(len(arcs)) % 2, 1.0, -1.0)[:, None]
    # boxes of near rows keep clear of each other, so that edges stay apart
    crowds = 0.06 * ((np.abs(level[:, None] - level[None, :]) <= 3) & ~bar[:, None] & ~bar[None, :])
    begins, ends = np.where(bar[start], end, start), np.where(bar[end], start, end)
    passing = 0.25 * between
    # what an edge's pull and its pushes do to the boxes at its ends
    at_start, at_end = (side[None, :] == np.arange(len(boxes))[:, None] for side in (start, end))
    pulls = (0.05 * weight * inner) * (at_start.astype(float) - at_end)
    pushed = -0.3 * (at_start * ~bar[start] + at_end * ~bar[end])
    for step in range(160):  # pull along edges, push boxes off the edges that pass their row
        cooling = 1 - step / 160
        xs = x[begins]
        leaning = x[ends] - xs
        away = x - (xs[:, None] + leaning[:, None] * u)
        side = np.where(away == 0, turns, np.sign(away))
        push = np.maximum(reach - np.abs(away), 0) * side * passing
        apart = x[:, None] - x
        crowd = np.maximum(1.6 * HEAD_WIDTH - np.abs(apart), 0) * np.sign(apart) * crowds
        move = pulls @ leaning + push.sum(axis=0) + pushed @ push.sum(axis=1) + crowd.sum(axis=1)
        x += np.clip(move, -25, 25) * cooling
        for lane in lanes:
            _separate(x, lane, width)
    free = np.flatnonzero(~bar)
    if len(free) > 1:  # use the width that there is
        extent = max(np.ptp(x[free]), 1.0)
        stretch = min(2.2, (width - HEAD_WIDTH - 40) / extent)
        x[free] = width / 2 + (x[free] - (x[free].min() + x[free].max()) / 2) * max(stretch, 1.0)
        for lane in lanes:
            _separate(x, lane, width)
    return x


def _neighbours(
    box: int, start: np.ndarray, end: np.ndarray, weight: np.ndarray, inner: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The boxes at the other ends of a box's edges, and what share of its place each of them has."""
    touching = inner & ((start == box) | (end == box))
    others = np.where(start[touching] == box, end[touching], start[touching])
    return others, weight[touching] / weight[touching].sum() if len(others) else weight[:0]


def _separate(x: np.ndarray, lane: np.ndarray, width: float) -> None:
    """Moves the boxes of one row apart, in their order, and into the frame."""
    low, high = HEAD_WIDTH / 2 + 4, width - HEAD_WIDTH / 2 - 4
    if len(lane) == 1:
        (alone,) = lane.tolist()
        x[alone] = min(max(x[alone], low), high)
        return
    apart, last = HEAD_WIDTH + GAP_X, len(lane) - 1
    there = sorted(zip(x[lane].tolist(), lane.tolist(), strict=True), key=itemgetter(0))
    closed = [at - apart * i for i, (at, _) in enumerate(there)]  # without the room between them
    rights = list(accumulate(closed, max))
    lefts = list(accumulate(reversed(closed), min))
    for i, (_, box) in enumerate(there):
        placed = max((lefts[last - i] + rights[i]) / 2, low) + apart * i
        x[box] = min(placed, high - apart * (last - i))
