"""How the edges of a drawing are led: strongest first, each bows as little as avoids boxes and other edges.

Knows boxes and arcs. Does not know where boxes ought to be.

An edge is a cubic curve whose control points sit at a third and two thirds of its height, so that y is linear
along it and x is a smooth step plus a bulge. Along a bar (`input`, `logits`) its end may also slide.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float

from pipeline.report.boxes import GUTTER, Arc, Box

SAMPLES = np.linspace(0.03, 0.97, 41)
STEP, BULGE = SAMPLES**2 * (3 - 2 * SAMPLES), 3 * SAMPLES * (1 - SAMPLES)
BOWS = np.asarray([0, *(s * b for b in (24, 48, 76, 108, 150, 200, 260) for s in (1, -1))], dtype=float)
SLIDES = np.asarray([0, *(s * b for b in (16, 34, 56, 84, 120, 170) for s in (1, -1))], dtype=float)
CLEARANCE = 5.0


@dataclass(frozen=True)
class _Obstacles:
    """The boxes as columns: centre, half width, top, bottom."""

    x: Float[np.ndarray, "box 1"]
    half: Float[np.ndarray, "box 1"]
    top: Float[np.ndarray, "box 1"]
    bottom: Float[np.ndarray, "box 1"]
    solid: Bool[np.ndarray, "box 1"]  # bars stand in nobody's way

    @staticmethod
    def of(boxes: Sequence[Box]) -> "_Obstacles":
        columns = [(b.x, b.width / 2 + CLEARANCE, b.y - 4, b.y + b.height + 4) for b in boxes]
        x, half, top, bottom = (
            np.asarray(column, dtype=float)[:, None] for column in zip(*columns, strict=True)
        )
        return _Obstacles(x, half, top, bottom, np.asarray([[not b.is_bar] for b in boxes]))


def route(boxes: Sequence[Box], arcs: Sequence[Arc]) -> list[Arc]:
    """The arcs with their points, in the order given."""
    obstacles, offsets = _Obstacles.of(boxes), _fans(boxes, arcs)
    low, high = GUTTER + 6.0, boxes[0].x + boxes[0].width / 2 - 6
    routed: dict[int, Arc] = {}
    taken: list[tuple[np.ndarray, np.ndarray]] = []
    for i in sorted(range(len(arcs)), key=lambda i: -arcs[i].strength):
        arc = arcs[i]
        start, end = boxes[arc.start], boxes[arc.end]
        x0, x1 = start.x + offsets[i][0], end.port_x(arc.port) + offsets[i][1]
        if start.is_bar and end.is_bar:
            bow, slide = np.zeros((41, 1)), np.linspace(low - x0, high - x0, 41)[:, None]
        elif start.is_bar or end.is_bar:
            x0, x1 = (x1, x1) if start.is_bar else (x0, x0)
            bow, slide = (grid.reshape(-1, 1) for grid in np.meshgrid(BOWS, SLIDES))
        else:
            bow, slide = BOWS[:, None], np.zeros((len(BOWS), 1))
        first = np.clip(x0 + start.is_bar * slide, low, high)
        last = np.clip(x1 + end.is_bar * slide, low, high)
        x = first + (last - first) * STEP + bow * BULGE
        y0, y1 = start.y, end.y + end.height
        y = y0 + (y1 - y0) * SAMPLES
        detour = bow[:, 0] ** 2 + (0.0 if start.is_bar and end.is_bar else slide[:, 0] ** 2)
        outside = np.clip(np.maximum(low - x, x - high), 0, None).max(axis=1)
        others = [n not in (arc.start, arc.end) for n in range(len(boxes))]
        cost = (
            6e-4 * detour
            + 40.0 * outside
            + _through_boxes(x, y, obstacles, np.asarray(others))
            + _beside(x, y, taken)
        )
        best = int(np.argmin(cost))
        taken.append((x[best], -y))
        a, b, bend = float(first[best, 0]), float(last[best, 0]), float(bow[best, 0])
        routed[i] = replace(arc, points=(a, y0, a + bend, b + bend, b, y1))
    return [routed[i] for i in range(len(arcs))]


def _through_boxes(
    x: Float[np.ndarray, "candidate sample"],
    y: Float[np.ndarray, " sample"],
    boxes: _Obstacles,
    others: Bool[np.ndarray, " box"],
) -> Float[np.ndarray, " candidate"]:
    """How deep a curve runs into boxes other than its own."""
    inside = (y >= boxes.top) & (y <= boxes.bottom) & boxes.solid & others[:, None]
    met = np.flatnonzero(inside.any(axis=1))
    depth = np.maximum(boxes.half[met] - np.abs(x[:, None, :] - boxes.x[met]), 0) * inside[met]
    return 8.0 * depth.max(axis=(1, 2), initial=0.0) + 2.0 * depth.sum(axis=(1, 2))


def _beside(
    x: Float[np.ndarray, "candidate sample"],
    y: Float[np.ndarray, " sample"],
    taken: Sequence[tuple[np.ndarray, np.ndarray]],
) -> Float[np.ndarray, " candidate"]:
    """How long a curve runs on top of one that is there already; these are given with their heights above the top."""
    cost = np.zeros(len(x))
    up = -y
    for other_x, other_up in taken:
        begin, end = up.searchsorted(other_up[0]), up.searchsorted(other_up[-1], "right")
        if end - begin > 4:  # not what only meets at a node
            there = np.interp(up[begin:end], other_up, other_x)
            cost += 0.25 * np.maximum(5 - np.abs(x[:, begin:end] - there), 0).sum(axis=1)
    return cost


def _fans(boxes: Sequence[Box], arcs: Sequence[Arc]) -> list[list[float]]:
    """How far from the middle each arc leaves its sender, and meets a receiver that has no ports."""
    offsets = [[0.0, 0.0] for _ in arcs]
    for i, box in enumerate(boxes):
        leaving = [(boxes[arc.end], n) for n, arc in enumerate(arcs) if arc.start == i]
        arriving = [(boxes[arc.start], n) for n, arc in enumerate(arcs) if arc.end == i]
        for side, there in enumerate((leaving, arriving)):
            if box.is_bar or len(there) < 2 or (side == 1 and box.ports):
                continue
            there.sort(key=lambda other: box.x if other[0].is_bar else other[0].x)
            spread = min(36.0, 7.0 * (len(there) - 1))
            for place, (_, n) in enumerate(there):
                offsets[n][side] = spread * (place / (len(there) - 1) - 0.5)
    return offsets
