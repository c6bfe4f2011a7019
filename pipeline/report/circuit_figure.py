"""The circuit drawn by layer: boxes for nodes, a line for each edge, coloured by what ablating it does.

Knows circuits and a frame of scores; where things go is `pipeline.report.layout`.
"""

import numpy as np
import pandas as pd
from markupsafe import Markup

from pipeline.core.circuit import Circuit
from pipeline.core.graph import Graph
from pipeline.core.scores import rank_order
from pipeline.report.boxes import PORT_OFFSET, Arc, Box
from pipeline.report.essentials import by_edge
from pipeline.report.layout import Drawing, lay_out
from pipeline.report.svg import figure, line, message, number, tag, text

DRAWN_EDGES = 60


def circuit_svg(circuit: Circuit, frame: pd.DataFrame, limit: int = DRAWN_EDGES) -> Markup:
    """The strongest part of `circuit` that still leads from input to logits, at most about `limit` edges.

    `frame` has `edge_id score` and, where known, `score_sem`. Blue helps, orange (dashed) hurts, width is
    |score|; hovering names an edge and its score, hovering a node keeps its edges.
    """
    score = by_edge(frame, "score", circuit.graph)
    part = strongest_part(circuit, score, limit)
    edges = np.flatnonzero(part.mask)
    if not len(edges):
        return message(f"No path from input to logits among the {circuit.n_edges:,} edges of this circuit.")
    sem = by_edge(frame, "score_sem", circuit.graph)
    size = np.nan_to_num(np.abs(score[edges]))
    drawing = lay_out(circuit.graph, edges.tolist(), size.tolist())
    top = float(size.max()) or 1.0
    used = {(arc.end, arc.port) for arc in drawing.arcs if arc.edge is not None}
    thick = 5.1 if len(edges) <= 25 else 4.1  # many lines, thinner lines
    order = sorted(drawing.arcs, key=lambda arc: arc.strength)
    label = f"Circuit of {len(edges)} edges from input to logits, by layer"
    return figure(
        "circuit",
        drawing.width,
        drawing.height + 34,
        label,
        _bands(drawing),
        tag("g", *(_link(arc, circuit, score, sem, top, thick) for arc in order), class_="edges"),
        tag("g", *(_box(i, box, used) for i, box in enumerate(drawing.boxes)), class_="boxes"),
        _legend(drawing, top, thick),
    )


def strongest_part(circuit: Circuit, score: np.ndarray, limit: int = DRAWN_EDGES) -> Circuit:
    """The largest "n strongest edges of the circuit, without dangling nodes" that has at most `limit` edges.

    Where that misses the strongest edge (its way to an end is weak), the strongest edges, each with its
    strongest path from input to logits.
    """
    chosen = np.flatnonzero(circuit.mask)
    ranked = chosen[rank_order(np.nan_to_num(score[chosen]))]

    def part(n: int) -> Circuit:
        mask = np.zeros(circuit.graph.n_edges, dtype=bool)
        mask[ranked[:n]] = True
        return Circuit(circuit.graph, mask, circuit.score).pruned

    low, high = 0, min(limit, len(ranked))
    while part(high).n_edges <= limit:
        if high == len(ranked):
            return part(high)
        low, high = high, min(2 * high, len(ranked))
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if part(middle).n_edges <= limit else (low, middle)
    best, whole = part(low), circuit.pruned
    inside = np.flatnonzero(whole.mask)
    strongest = inside[rank_order(np.nan_to_num(score[inside]))[0]]
    return best if best.mask[strongest] else _strongest_paths(whole, score, limit)


def _strongest_paths(circuit: Circuit, score: np.ndarray, limit: int) -> Circuit:
    """Edges from the strongest down, each with the path through it whose weakest edge is strongest.

    `circuit` has no dangling nodes. What is strongest is found once per receiver and once per sender, in the
    order in which they read and write, so that what they build on is final.
    """
    graph, size = circuit.graph, np.nan_to_num(np.abs(score))
    down, last = np.full(graph.n_senders, -1.0), np.full(graph.n_senders, -1)  # from input to the sender
    up, first = (
        np.full(graph.n_receivers, -1.0),
        np.full(graph.n_receivers, -1),
    )  # from the receiver to logits
    down[0] = up[graph.logits_receiver] = np.inf
    edges = np.flatnonzero(circuit.mask)
    into = np.split(edges, np.searchsorted(edges, graph.first_edge[1:-1]))
    by_sender = edges[np.argsort(graph.edge_senders[edges], kind="stable")]
    out_of = np.split(
        by_sender, np.searchsorted(graph.edge_senders[by_sender], np.arange(1, graph.n_senders))
    )
    for receiver, mine in enumerate(into):
        if len(mine):
            through = np.minimum(size[mine], down[graph.edge_senders[mine]])
            for sender in graph.senders_fed_by(receiver):
                if through.max() > down[sender]:
                    down[sender], last[sender] = through.max(), mine[through.argmax()]
    for sender in reversed(range(graph.n_senders)):
        if len(mine := out_of[sender]):
            through = np.minimum(size[mine], up[graph.edge_receivers[mine]])
            for receiver in _receivers_feeding(graph, sender):
                if through.max() > up[receiver]:
                    up[receiver], first[receiver] = through.max(), mine[through.argmax()]
    mask = np.zeros(graph.n_edges, dtype=bool)
    for edge in edges[rank_order(size[edges])].tolist():
        path, at = [edge], edge
        while (sender := graph.edge_senders[at]) > 0:
            path.append(at := int(last[sender]))
        at = edge
        while (receiver := graph.edge_receivers[at]) != graph.logits_receiver:
            path.append(at := int(first[receiver]))
        if mask.any() and mask.sum() + (~mask[path]).sum() > limit:
            break
        mask[path] = True
    return Circuit(graph, mask, circuit.score)


def _receivers_feeding(graph: Graph, sender: int) -> list[int]:
    node = graph.senders[sender]
    if node.layer is None:
        return []
    if node.head is None:
        return [graph.mlp_receiver(node.layer)]
    shared = node.head * graph.n_ports // graph.n_heads
    return [
        graph.head_receiver(node.layer, "q", node.head),
        graph.head_receiver(node.layer, "k", shared),
        graph.head_receiver(node.layer, "v", shared),
    ]


def _link(arc: Arc, circuit: Circuit, score: np.ndarray, sem: np.ndarray, top: float, thick: float) -> Markup:
    x0, y0, c0, c1, x1, y1 = arc.points
    third = (y1 - y0) / 3
    path = f"M{x0:.1f} {y0:.0f}C{c0:.1f} {y0 + third:.1f} {c1:.1f} {y1 - third:.1f} {x1:.1f} {y1:.0f}"
    ends = f"n{arc.start} n{arc.end}"
    if arc.edge is None:
        return tag("path", class_=f"feeds {ends}", d=path)
    value = float(score[arc.edge])
    spread = f" ± {number(float(sem[arc.edge]))}" if np.isfinite(sem[arc.edge]) else ""
    name = circuit.graph.edge_name(arc.edge).replace("->", " → ")
    return tag(
        "path",
        tag("title", f"{name}  {number(value, sign=True)}{spread}"),
        class_=f"edge {'neg' if value < 0 else 'pos'} {ends}",
        d=path,
        stroke_width=f"{0.9 + thick * arc.strength / top:.2f}",
        opacity=f"{0.55 + 0.4 * arc.strength / top:.2f}",
    )


def _box(i: int, box: Box, used: set[tuple[int, str | None]]) -> Markup:
    left = box.x - box.width / 2
    shape = tag(
        "rect", x=left, y=box.y, width=box.width, height=box.height, rx=10 if box.kind == "mlp" else 5
    )
    middle = box.y + (15 if box.ports else box.height / 2 + 4)
    parts = [shape, text(box.x, middle, box.name, anchor="middle")]
    if box.ports:
        cell = {3: PORT_OFFSET, 2: PORT_OFFSET * 1.5, 1: PORT_OFFSET * 3}[len(box.ports)]
        for port in box.ports:
            x, y = box.port_x(port), box.y + box.height
            on = f"port {port}" if (i, port) in used else "port off"
            parts.append(
                tag("rect", x=x - cell / 2 + 1, y=y - 12, width=cell - 2, height=11, rx=2.5, class_=on)
            )
            parts.append(text(x, y - 3.4, port, on, anchor="middle"))
    return tag("g", *parts, class_=f"box {box.kind} b{i}")


def _bands(drawing: Drawing) -> Markup:
    parts = []
    for n, (layer, top, bottom) in enumerate(sorted(drawing.bands)):
        parts.append(tag("rect", x=0, y=top, width=drawing.width, height=bottom - top, class_=f"band{n % 2}"))
        parts.append(text(10, (top + bottom) / 2 + 4, f"layer {layer}", "muted"))
    return tag("g", *parts)


def _legend(drawing: Drawing, top: float, thick: float) -> Markup:
    y = drawing.height + 16
    parts: list[Markup] = []
    x = 12.0
    for class_, words in (("pos", "helps (score > 0)"), ("neg", "hurts (score < 0)")):
        parts += [tag("path", d=f"M{x:.0f} {y:.0f}h30", class_=f"edge {class_}", stroke_width="3")]
        parts += [text(x + 37, y + 4, words, "small")]
        x += 158
    parts += [
        tag("path", d=f"M{x:.0f} {y:.0f}h30", class_="edge pos", stroke_width=f"{0.9 + thick:.1f}"),
        text(x + 37, y + 4, f"|score| {number(top)}", "small"),
    ]
    x += 142
    for port, words in (("q", "query"), ("k", "key"), ("v", "value")):
        parts += [
            tag("rect", x=x, y=y - 6, width=16, height=12, rx=2.5, class_=f"port {port}"),
            text(x + 8, y + 3.6, port, f"port {port}", "middle"),
            text(x + 21, y + 4, words, "small"),
        ]
        x += 64
    return tag(
        "g", line(0, drawing.height + 1, drawing.width, drawing.height + 1, "rule"), *parts, class_="legend"
    )
