"""A chart of circuits: edges kept, on a logarithmic scale, against what the circuits do; a curve per method.

Knows points, curves, axes, marks and a legend. Does not know which circuits there are nor what is measured.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

from pipeline.report.svg import MINUS, line, linear_ticks, log_ticks, number, percent, tag, text

LEFT, TOP, WIDE, HIGH, LEGEND = 64, 16, 790, 320, 240
ROW = 21  # of the legend
LETTERS = 27  # that the legend has room for
LOOKS = 8  # as many colours as figures.css has


@dataclass(frozen=True)
class Axes:
    """Logarithmic in edges, linear or logarithmic in the value; `total` is the number of all edges, where known.

    Values outside of `shown` are drawn at its ends. `top` and `high` say where on the page the chart is.
    """

    edges: tuple[float, float]
    limits: tuple[float, float]
    shown: tuple[float, float]
    total: int | None
    top: float = TOP
    high: float = HIGH
    is_log: bool = False

    @property
    def bottom(self) -> float:
        return self.top + self.high

    def x(self, n_edges: float) -> float:
        low, high = self.edges
        return LEFT + 10 + (WIDE - 20) * math.log(n_edges / low) / math.log(high / low)

    def y(self, value: float) -> float:
        low, high = self.limits
        inside = min(max(value, self.shown[0]), self.shown[1])
        if self.is_log:
            return self.top + self.high * math.log(high / inside) / math.log(high / low)
        return self.top + self.high * (high - inside) / (high - low)

    def point(self, n_edges: int, value: float, words: str, label: str = "") -> "Point":
        """A circuit, placed."""
        low, high = self.shown
        is_beyond = value > high or (value < low and not self.is_log)  # there the lowest tick says it
        y = self.y(value)
        return Point(self.x(n_edges), y, value, words, label, is_beyond, y < self.top + self.high / 2)


def span_of(n_edges: Sequence[int]) -> tuple[float, float]:
    """Both ends of the axis of edges."""
    low, high = float(min(n_edges)), float(max(n_edges))
    return (low, high) if low < high else (low / 2, high * 2)


@dataclass(frozen=True)
class Point:
    """One circuit, placed; `words` is its tooltip, `label` what may stand beside it."""

    x: float
    y: float
    value: float
    words: str
    label: str
    is_beyond: bool
    is_high: bool

    @property
    def below(self) -> float:
        """Where the value of a point at the edge is written."""
        return self.y + (17 if self.is_high else -9)


@dataclass(frozen=True)
class Series:
    """The points of one method by rising number of edges; not `joined` where a single one was decided on."""

    method: str
    metric: str | None  # named when the chart holds several
    look: int
    joined: bool
    points: tuple[Point, ...]


# --- axes ------------------------------------------------------------------------------------------------


def grid(
    axes: Axes,
    title: str,
    strong: Sequence[float] = (),
    *,
    is_lowest: bool = True,
    along: str = "edges kept",
) -> Markup:
    """Grid, ticks and titles; `strong` values have a darker line. What is counted `along` the axis is named below the
    lowest chart alone."""
    parts = []
    low, high = axes.limits
    for value in log_ticks(low, high, whole=False) if axes.is_log else linear_ticks(low, high):
        y = axes.y(value)
        parts.append(line(LEFT, y, LEFT + WIDE, y, "strong" if value in strong else "rule"))
        least = "≤ " if axes.is_log and math.isclose(value, axes.shown[0]) else ""
        parts.append(text(LEFT - 8, y + 4, least + f"{value:g}".replace("-", MINUS), "muted", "end"))
    bottom = axes.bottom
    for tick in log_ticks(*axes.edges):
        x = axes.x(tick)
        parts.append(line(x, bottom, x, bottom + 5, "strong"))
        if is_lowest:
            parts.append(text(x, bottom + 18, f"{tick:,}", "muted small", "middle"))
        if is_lowest and axes.total:
            parts.append(text(x, bottom + 31, percent(tick / axes.total), "muted small", "middle"))
    parts.append(line(LEFT, bottom, LEFT + WIDE, bottom, "strong"))
    if is_lowest:
        share = f" and share of {axes.total:,}" if axes.total else ""
        parts.append(text(LEFT + WIDE / 2, bottom + 48, f"{along}{share}, log scale", "small", "middle"))
    turned = f"translate(16 {axes.top + axes.high / 2:.0f}) rotate(-90)"
    parts.append(tag("text", title, class_="small", text_anchor="middle", transform=turned))
    return tag("g", *parts)


# --- curves ----------------------------------------------------------------------------------------------


def curves(series: Sequence[Series]) -> list[Markup]:
    """Line and points of each, the first lowest; thicker by what will cover it, so that it shows on both sides."""
    return [_curve(s, _covered(s, series[i + 1 :])) for i, s in enumerate(series)]


def _covered(series: Series, later: Sequence[Series]) -> int:
    """How many curves drawn later run over at least half of this one."""

    def on_top(other: Series) -> bool:
        there = {(round(p.x), round(p.y)) for p in other.points}
        meets = [(round(p.x), round(p.y)) in there for p in series.points]
        hidden = [a and b for a, b in pairwise(meets)]
        return other.joined and any(hidden) and 2 * sum(hidden) >= len(hidden)

    return sum(on_top(other) for other in later)


def _curve(series: Series, covered: int) -> Markup:
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


# --- legend ---------------------------------------------------------------------------------------------


def legend(series: Sequence[Series], top: float = TOP) -> tuple[list[Markup], float]:
    """A row per series, right of the chart, and where the next would be."""
    x, y = LEFT + WIDE + 20, top + 14
    parts = []
    for one in series:
        parts.append(_legend_row(one, x, y))
        if one.metric is not None:
            parts.append(text(x + 34, y + 17, one.metric, "muted small"))
        y += ROW + (12 if one.metric is not None else 0)
    return parts, y


def _legend_row(series: Series, x: float, y: float) -> Markup:
    name = series.method
    short = name if len(name) <= LETTERS else f"{name[: LETTERS - 1]}…"
    stroke = tag("path", class_="curve", d=f"M{x} {y}h26", stroke_width=2) if series.joined else None
    mark = tag("path", class_="mark", d=_mark(x + 13, y, series.look, 4.6 if series.joined else 6.5))
    words = tag("text", tag("title", name) if name != short else None, short, x=x + 34, y=y + 4)
    return tag("g", stroke, mark, words, class_=f"s{series.look}")
