"""Evaluated circuits on a chart: the axes that hold them, what their tooltips say, the notes below.

Knows rows of `Run.faithfulness()`. Does not know which curves are drawn through them.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from markupsafe import Markup

from pipeline.report.chart import HIGH, LEFT, LEGEND, TOP, WIDE, Axes, span_of
from pipeline.report.svg import figure, number, text

SHOWN = (-1.0, 2.0)  # faithfulness outside of it is drawn at the edge, with its value


def with_value(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    """The circuits that keep an edge and have a number in `column`; as floats in `value`."""
    rows = frame[frame["n_edges"] > 0]
    rows = rows.assign(value=rows[column].astype(float))
    return rows[np.isfinite(rows["value"])]


def linear_axes(
    rows: pd.DataFrame,
    ends: tuple[float, float],
    shown: tuple[float, float],
    top: float = TOP,
    high: float = HIGH,
) -> Axes:
    """Axes that hold the `value` of all rows as far as it is `shown`, both `ends`, and a little air."""
    inside = rows["value"].clip(*shown)
    low, above = min(float(inside.min()), *ends), max(float(inside.max()), *ends)
    air = 0.05 * (above - low) or 1.0
    return Axes(span_of(rows["n_edges"].tolist()), (low - air, above + air), shown, _in_all(rows), top, high)


def log_axes(rows: pd.DataFrame, low: float, above: float, top: float = TOP, high: float = HIGH) -> Axes:
    """Logarithmic axes from `low` to `above`; what lies outside is drawn at these."""
    span = span_of(rows["n_edges"].tolist())
    return Axes(span, (low / 1.3, above * 1.3), (low, above), _in_all(rows), top, high, is_log=True)


def words_of(row: dict[str, object]) -> str:
    """A circuit's tooltip: whose it is, how large and how faithful."""
    n_edges, left = int(row["n_edges"]), int(row["n_edges_pruned"])  # type: ignore[call-overload]
    pruned = "" if left == n_edges else f", {left:,} without dangling nodes"
    value = number(float(row["faithfulness"]), scale=1)  # type: ignore[arg-type]
    rule = f" by {row['rank']}" if row.get("rank") else ""
    return f"{row['method']}{rule}: {n_edges:,} edges{pruned}; faithfulness {value}"


def chart_figure(
    kind: str, label: str, bottom: float, keys_end: float, notes: Sequence[str], *parts: object
) -> Markup:
    """The parts of charts that end at `bottom` beside a legend that ends at `keys_end`, and notes below."""
    lines = [text(LEFT, bottom + 66 + 15 * i, note, "muted small") for i, note in enumerate(notes)]
    height = max(bottom + 54 + (8 + 15 * len(notes) if notes else 0), keys_end)
    return figure(kind, LEFT + WIDE + LEGEND, height, label, *parts, *lines)


def _in_all(rows: pd.DataFrame) -> int | None:
    """The number of all edges, where the whole graph is among the circuits."""
    whole = rows.loc[rows["edge_fraction"] == 1.0, "n_edges"]
    return int(whole.iloc[0]) if len(whole) else None
