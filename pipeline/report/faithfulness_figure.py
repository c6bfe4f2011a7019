"""How faithful the circuits are: edges kept against the share of the behaviour that they restore.

Knows the frame of exact evaluations. Does not know how a circuit was evaluated.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
from markupsafe import Markup

from pipeline.report.svg import (
    MINUS,
    figure,
    line,
    linear_ticks,
    log_ticks,
    message,
    number,
    percent,
    tag,
    text,
)

LEFT, TOP, WIDE, HIGH, LEGEND = 64, 16, 790, 320, 210
SHOWN = (-1.0, 2.0)  # what lies outside is drawn at the edge, with its value
SERIES = 8  # looks: as many colours as figures.css has


@dataclass(frozen=True)
class Axes:
    """Logarithmic in edges, linear in faithfulness; `total` is the number of all edges, where known."""

    edges: tuple[float, float]
    limits: tuple[float, float]
    total: int | None

    @staticmethod
    def around(known: pd.DataFrame) -> "Axes":
        """Axes that hold all rows, faithfulness 0 and 1, and a little air."""
        low, high = float(known["n_edges"].min()), float(known["n_edges"].max())
        inside = known["value"].clip(*SHOWN)
        bottom, top = min(0.0, float(inside.min())), max(1.0, float(inside.max()))
        air = 0.05 * (top - bottom)
        whole = known.loc[known["edge_fraction"] == 1.0, "n_edges"]
        total = int(whole.iloc[0]) if len(whole) else None
        return Axes((low, high) if low < high else (low / 2, high * 2), (bottom - air, top + air), total)

    def x(self, n_edges: float) -> float:
        low, high = self.edges
        return LEFT + 10 + (WIDE - 20) * math.log(n_edges / low) / math.log(high / low)

    def y(self, value: float) -> float:
        low, high = self.limits
        return TOP + HIGH * (high - min(max(value, SHOWN[0]), SHOWN[1])) / (high - low)


@dataclass(frozen=True)
class Point:
    """One evaluation, placed; `words` is its tooltip."""

    x: float
    y: float
    value: float
    words: str

    @property
    def is_beyond(self) -> bool:
        return not SHOWN[0] <= self.value <= SHOWN[1]

    @property
    def below(self) -> float:
        """Where the value of a point at the edge is written."""
        return self.y + (17 if self.value > 0 else -9)


@dataclass(frozen=True)
class Series:
    """The points of one method by rising number of edges; not `joined` when the method itself decided."""

    method: str
    metric: str | None  # named when the chart holds several
    look: int
    joined: bool
    points: tuple[Point, ...]


def faithfulness_svg(frame: pd.DataFrame) -> Markup:
    """One chart for the methods of a task: `method edge_fraction n_edges n_edges_pruned faithfulness`.

    Rows without `edge_fraction` are a method's own decision and stand as points. A faithfulness of null (the
    metric does not move when everything is ablated) has no place here and is counted below the axis.
    """
    rows = frame[frame["n_edges"] > 0]
    rows = rows.assign(value=rows["faithfulness"].astype(float), metric=rows.get("metric", "metric"))
    known = rows[np.isfinite(rows["value"])]
    if known.empty:
        return message("No faithfulness: ablating every edge leaves the metric where it was.")
    axes = Axes.around(known)
    several = len(set(known["metric"])) > 1
    series = [
        Series(
            str(method),
            str(metric) if several else None,
            look % SERIES,
            bool(part["edge_fraction"].notna().any()),
            _points(part, axes),
        )
        for look, ((method, metric), part) in enumerate(known.groupby(["method", "metric"], sort=False))
    ]
    series.sort(key=lambda s: -float(np.mean([p.value for p in s.points])))
    n_undefined = len(rows) - len(known)
    undefined = f"{n_undefined} of {len(rows)} evaluations have no faithfulness" if n_undefined else None
    return figure(
        "faithfulness",
        LEFT + WIDE + LEGEND,
        TOP + HIGH + (72 if undefined else 54),
        "Faithfulness against the number of edges kept, for " + ", ".join(s.method for s in series),
        _frame(axes),
        *(_curve(s, _covered(s, series[i + 1 :])) for i, s in enumerate(series)),
        *_direct_labels(series),
        *(_legend_row(s, row) for row, s in enumerate(series)),
        text(LEFT, TOP + HIGH + 66, undefined, "muted small") if undefined else None,
    )


def _points(part: pd.DataFrame, axes: Axes) -> tuple[Point, ...]:
    points = []
    for row in part.sort_values("n_edges", kind="stable").to_dict("records"):
        value, n_edges, left = float(row["value"]), int(row["n_edges"]), int(row["n_edges_pruned"])
        pruned = "" if left == n_edges else f", {left:,} without dangling nodes"
        words = f"{row['method']}: {n_edges:,} edges{pruned}; faithfulness {number(value)}"
        points.append(Point(axes.x(n_edges), axes.y(value), value, words))
    return tuple(points)


def _frame(axes: Axes) -> Markup:
    """Grid, ticks and titles of the axes."""
    parts = []
    for value in linear_ticks(*axes.limits):
        parts.append(
            line(LEFT, axes.y(value), LEFT + WIDE, axes.y(value), "strong" if value in (0, 1) else "rule")
        )
        parts.append(text(LEFT - 8, axes.y(value) + 4, f"{value:g}".replace("-", MINUS), "muted", "end"))
    bottom = TOP + HIGH
    for tick in log_ticks(*axes.edges):
        x = axes.x(tick)
        parts.append(line(x, bottom, x, bottom + 5, "strong"))
        parts.append(text(x, bottom + 18, f"{tick:,}", "muted small", "middle"))
        if axes.total:
            parts.append(text(x, bottom + 31, percent(tick / axes.total), "muted small", "middle"))
    parts.append(line(LEFT, bottom, LEFT + WIDE, bottom, "strong"))
    share = f" and share of {axes.total:,}" if axes.total else ""
    parts.append(text(LEFT + WIDE / 2, bottom + 48, f"edges kept{share}, log scale", "small", "middle"))
    turned = f"translate(16 {TOP + HIGH / 2:.0f}) rotate(-90)"
    parts.append(tag("text", "faithfulness", class_="small", text_anchor="middle", transform=turned))
    return tag("g", *parts)


def _covered(series: Series, later: Sequence[Series]) -> int:
    """How many curves drawn later run over at least two neighbouring points of this one."""

    def on_top(other: Series) -> bool:
        there = {(round(p.x), round(p.y)) for p in other.points}
        meets = [(round(p.x), round(p.y)) in there for p in series.points]
        return other.joined and any(a and b for a, b in pairwise(meets))

    return sum(on_top(other) for other in later)


def _curve(series: Series, covered: int) -> Markup:
    """Line and points; thicker by what will cover it, so that it shows on both sides."""
    parts = []
    if len(series.points) > 1 and series.joined:
        way = "M" + "L".join(f"{p.x:.1f} {p.y:.1f}" for p in series.points)
        parts.append(tag("path", class_="curve", d=way, stroke_width=2 + 3 * covered))
    for p in series.points:
        shape = _mark(p.x, p.y, series.look, 4.6 + covered if series.joined else 6.5)
        parts.append(tag("path", tag("title", p.words), class_="mark", d=shape))
        if p.is_beyond:
            parts.append(text(p.x, p.below, number(p.value, digits=2), "small muted", "middle"))
    return tag("g", *parts, class_=f"s{series.look}")


def _mark(x: float, y: float, look: int, r: float) -> str:
    """Circle, square, triangle, diamond, triangle upside down, bar: told apart without colour."""
    if look % 6 == 0:
        return f"M{x - r:.1f} {y:.1f}a{r} {r} 0 1 0 {2 * r:.1f} 0a{r} {r} 0 1 0 {-2 * r:.1f} 0z"
    corners = {
        1: ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
        2: ((0, -1.2), (1.1, 0.8), (-1.1, 0.8)),
        3: ((0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)),
        4: ((0, 1.2), (1.1, -0.8), (-1.1, -0.8)),
        5: ((-0.45, -1.1), (0.45, -1.1), (0.45, 1.1), (-0.45, 1.1)),
    }[look % 6]
    return "M" + "L".join(f"{x + r * dx:.1f} {y + r * dy:.1f}" for dx, dy in corners) + "z"


def _direct_labels(series: Sequence[Series]) -> list[Markup]:
    """Each method's name beside its curve, where most is free around it; none where all is full."""
    marks = [(p.x, p.y) for s in series for p in s.points]
    marks += [(p.x, p.below - 4) for s in series for p in s.points if p.is_beyond]
    labels: list[tuple[float, float, float]] = []
    drawn = []
    for own in series:
        half = 3.7 * len(own.method)
        others = [point for s in series if s is not own for point in _dense(s.points)]
        best, room = None, 12.0
        for p in own.points:
            for dx, dy in ((0, -15), (0, 20), (half + 12, 4), (-half - 12, 4)):
                x, y = p.x + dx, p.y + dy
                inside = LEFT + half < x < LEFT + WIDE - half and TOP + 10 < y < TOP + HIGH - 6
                obstacles = [*others, *marks] + ([] if dx == 0 else _dense(own.points))
                obstacles = [o for o in obstacles if o != (p.x, p.y)]
                probes = [(x + share * half, y - 4) for share in (-1, -0.5, 0, 0.5, 1)]
                free = min((math.dist(o, probe) for o in obstacles for probe in probes), default=99.0)
                clear = all(abs(x - lx) > half + lh + 4 or abs(y - ly) > 15 for lx, ly, lh in labels)
                if inside and clear and free > room:
                    best, room = (x, y), free
        if best is not None:
            labels.append((*best, half))
            name = text(*best, own.method, "name", "middle")
            drawn.append(tag("g", name, class_=f"s{own.look}"))
    return drawn


def _dense(points: Sequence[Point]) -> list[tuple[float, float]]:
    """The curve as many points, so that a distance to them is one to the curve."""
    x = np.linspace(points[0].x, points[-1].x, 60)
    y = np.interp(x, [p.x for p in points], [p.y for p in points])
    return list(zip(x.tolist(), y.tolist(), strict=True))


def _legend_row(series: Series, row: int) -> Markup:
    x, y = LEFT + WIDE + 20, TOP + 14 + 21 * row
    name = series.method if series.metric is None else f"{series.method} ({series.metric})"
    short = name if len(name) <= 27 else f"{name[:26]}…"
    stroke = tag("path", class_="curve", d=f"M{x} {y}h26", stroke_width=2) if series.joined else None
    mark = tag("path", class_="mark", d=_mark(x + 13, y, series.look, 4.6 if series.joined else 6.5))
    words = tag("text", tag("title", name) if name != short else None, short, x=x + 34, y=y + 4)
    return tag("g", stroke, mark, words, class_=f"s{series.look}")
