"""How faithful the circuits are: edges kept against the share of the behaviour that they restore.

Knows the frame of exact evaluations. Does not know how a circuit was evaluated, nor how a chart is drawn.
"""

import numpy as np
import pandas as pd
from markupsafe import Markup

from pipeline.report.chart import (
    HIGH,
    LEFT,
    LEGEND,
    LOOKS,
    TOP,
    WIDE,
    Axes,
    Point,
    Series,
    curves,
    grid,
    legend,
    span_of,
)
from pipeline.report.labels import names
from pipeline.report.svg import figure, message, number, text

SHOWN = (-1.0, 2.0)  # what lies outside is drawn at the edge, with its value


def faithfulness_svg(frame: pd.DataFrame) -> Markup:
    """One chart for the methods of a task: `method edge_fraction n_edges n_edges_pruned faithfulness`; with `family`,
    methods of a family are one curve.

    Rows without `edge_fraction` are a method's own decision; a single one stands as a point. A faithfulness of null
    (the metric does not move when everything is ablated) has no place here and is counted below the axis.
    """
    rows = frame[frame["n_edges"] > 0]
    rows = rows.assign(
        value=rows["faithfulness"].astype(float),
        metric=rows.get("metric", "metric"),
        family=rows.get("family", rows["method"]),
    )
    known = rows[np.isfinite(rows["value"])]
    if known.empty:
        return message("No faithfulness: ablating every edge leaves the metric where it was.")
    axes = faithfulness_axes(known)
    several = len(set(known["metric"])) > 1
    series = [
        Series(
            str(family),
            str(metric) if several else None,
            look % LOOKS,
            bool(part["edge_fraction"].notna().any()) or len(part) > 1,
            _points(part, axes),
        )
        for look, ((family, metric), part) in enumerate(known.groupby(["family", "metric"], sort=False))
    ]
    series.sort(key=lambda s: -float(np.mean([p.value for p in s.points])))
    n_undefined = len(rows) - len(known)
    undefined = f"{n_undefined} of {len(rows)} evaluations have no faithfulness" if n_undefined else None
    keys, below = legend(series)
    return figure(
        "faithfulness",
        LEFT + WIDE + LEGEND,
        max(TOP + HIGH + (72 if undefined else 54), below),
        "Faithfulness against the number of edges kept, for " + ", ".join(s.method for s in series),
        grid(axes, "faithfulness", (0, 1)),
        *curves(series),
        *names(series, axes),
        *keys,
        text(LEFT, TOP + HIGH + 66, undefined, "muted small") if undefined else None,
    )


def faithfulness_axes(known: pd.DataFrame, top: float = TOP, high: float = HIGH) -> Axes:
    """Axes that hold all rows, faithfulness 0 and 1, and a little air."""
    inside = known["faithfulness"].astype(float).clip(*SHOWN)
    low, above = min(0.0, float(inside.min())), max(1.0, float(inside.max()))
    air = 0.05 * (above - low)
    limits = (low - air, above + air)
    return Axes(span_of(known["n_edges"].tolist()), limits, SHOWN, edges_in_all(known), top, high)


def edges_in_all(rows: pd.DataFrame) -> int | None:
    """The number of all edges, where the whole graph is among the circuits."""
    whole = rows.loc[rows["edge_fraction"] == 1.0, "n_edges"]
    return int(whole.iloc[0]) if len(whole) else None


def words_of(row: dict[str, object]) -> str:
    """A circuit's tooltip: whose it is, how large and how faithful."""
    n_edges, left = int(row["n_edges"]), int(row["n_edges_pruned"])  # type: ignore[call-overload]
    pruned = "" if left == n_edges else f", {left:,} without dangling nodes"
    value = number(float(row["faithfulness"]))  # type: ignore[arg-type]
    return f"{row['method']}: {n_edges:,} edges{pruned}; faithfulness {value}"


def _points(part: pd.DataFrame, axes: Axes) -> tuple[Point, ...]:
    records = part.sort_values("n_edges", kind="stable").to_dict("records")
    return tuple(axes.point(int(row["n_edges"]), float(row["value"]), words_of(row)) for row in records)
