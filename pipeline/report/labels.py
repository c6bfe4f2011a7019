"""Where words go in a chart: a method's name beside its curve, a circuit's label beside its point.

Knows placed curves and the room around them. Does not know what the words say.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
from markupsafe import Markup

from pipeline.report.chart import LEFT, WIDE, Axes, Point, Series
from pipeline.report.svg import tag, text

Spot = tuple[float, float]
Label = tuple[float, float, float]  # middle, baseline, half its width


def names(series: Sequence[Series], axes: Axes) -> list[Markup]:
    """Each method's name beside its curve, where most is free around it; none where all is full."""
    marks = _marks(series)
    labels: list[Label] = []
    drawn = []
    for own in series:
        half = 3.7 * len(own.method)
        others = [point for s in series if s is not own for point in _dense(s.points)]
        best, room = None, 12.0
        for p in own.points:
            for dx, dy in ((0, -15), (0, 20), (half + 12, 4), (-half - 12, 4)):
                spot = (p.x + dx, p.y + dy)
                obstacles = [*others, *marks] + ([] if dx == 0 else _dense(own.points))
                free = _free(spot, half, [o for o in obstacles if o != (p.x, p.y)])
                if _inside(spot, half, axes) and _is_clear(spot, half, labels) and free > room:
                    best, room = spot, free
        if best is not None:
            labels.append((*best, half))
            drawn.append(tag("g", text(*best, own.method, "name", "middle"), class_=f"s{own.look}"))
    return drawn


def point_labels(series: Sequence[Series], axes: Axes) -> list[Markup]:
    """The labels of points beside them, off every mark and every other label; a curve may pass below. A point that is
    hemmed in goes without: its tooltip says the same."""
    marks = _marks(series)
    labels: list[Label] = []
    drawn = []
    lines = [point for s in series if s.joined for point in _dense(s.points)]
    for own in series:
        for p in own.points:
            if not p.label:
                continue
            half, best, room = 3.2 * len(p.label), None, 0.0
            others = [mark for mark in marks if mark != (p.x, p.y)]
            for far, spot in _around(p, half):
                free = _free(spot, half, others)
                worth = min(free, 20.0) + min(_free(spot, half, lines), 9.0) - far
                if free > 9 and worth > room and _inside(spot, half, axes) and _is_clear(spot, half, labels):
                    best, room = spot, worth
            if best is not None:
                labels.append((*best, half))
                drawn.append(tag("g", text(*best, p.label, "name small", "middle"), class_=f"s{own.look}"))
    return drawn


def _around(point: Point, half: float) -> Iterator[tuple[float, Spot]]:
    """Places for words beside a point, and how much farther off than need be."""
    for far in (0, 9):
        side = half + 6 + far
        for dx, dy in ((0, -9 - far), (0, 18 + far), (side, 4), (-side, 4)):
            yield far / 3, (point.x + dx, point.y + dy)
        for dx, dy in ((side, -6 - far), (-side, -6 - far), (side, 15 + far), (-side, 15 + far)):
            yield far / 3, (point.x + dx, point.y + dy)


def _marks(series: Sequence[Series]) -> list[Spot]:
    """What no label may cover: points, and the values written beside those at the edge."""
    marks = [(p.x, p.y) for s in series for p in s.points]
    return marks + [(p.x, p.below - 4) for s in series for p in s.points if p.is_beyond]


def _inside(spot: Spot, half: float, axes: Axes) -> bool:
    x, y = spot
    return LEFT + half < x < LEFT + WIDE - half and axes.top + 10 < y < axes.bottom - 6


def _free(spot: Spot, half: float, obstacles: Sequence[Spot]) -> float:
    """How far the nearest obstacle is from words around a spot."""
    probes = [(spot[0] + share * half, spot[1] - 4) for share in (-1, -0.5, 0, 0.5, 1)]
    return min((math.dist(o, probe) for o in obstacles for probe in probes), default=99.0)


def _is_clear(spot: Spot, half: float, labels: Sequence[Label]) -> bool:
    return all(abs(spot[0] - x) > half + other + 4 or abs(spot[1] - y) > 15 for x, y, other in labels)


def _dense(points: Sequence[Point]) -> list[Spot]:
    """The curve as many points, so that a distance to them is one to the curve."""
    x = np.linspace(points[0].x, points[-1].x, 60)
    y = np.interp(x, [p.x for p in points], [p.y for p in points])
    return list(zip(x.tolist(), y.tolist(), strict=True))
