"""What a circuit costs and what it does: edges kept against the metric, and against faithfulness.

Knows the rows of `Run.pareto()` at one metric and ablation of one task. Does not know how they were found.
"""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
from markupsafe import Markup

from pipeline.metrics import METRICS
from pipeline.report.chart import (
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
from pipeline.report.faithfulness_figure import SHOWN, edges_in_all, faithfulness_axes, words_of
from pipeline.report.labels import point_labels
from pipeline.report.svg import figure, line, message, number, text

PANEL, GAP = 270, 30
LEAST = (
    1e-4  # of what no edges have: a divergence below that power of ten is drawn at the bottom, at its tick
)
TITLES = {
    "kl_divergence": "KL divergence (nats)",
    "nll": "negative log likelihood (nats)",
    "logit_diff": "logit difference (logits)",
    "prob_diff": "probability difference",
    "accuracy": "accuracy (share of prompts)",
}


def sweeps_of(rows: pd.DataFrame) -> list[tuple[str, str, pd.DataFrame]]:
    """(metric, ablation, rows) of a task, for every metric and ablation at which two circuits or more come from
    methods with a threshold."""
    groups = rows.groupby(["metric", "ablation"], sort=False, dropna=False)
    return [
        (str(metric), str(ablation), part)
        for (metric, ablation), part in groups
        if part.loc[part["n_edges"] > 0, "threshold"].notna().sum() > 1
    ]


def pareto_svg(rows: pd.DataFrame) -> Markup:
    """Two charts over one axis of edges, a curve per family; circuits of a threshold carry it as their label."""
    drawn = rows[rows["n_edges"] > 0]
    drawn = drawn.assign(value=drawn["metric_circuit"].astype(float))
    drawn = drawn[np.isfinite(drawn["value"])]
    if drawn.empty:
        return message("No circuit keeps an edge.")
    upper = _metric_axes(drawn)
    faithful = drawn[np.isfinite(drawn["faithfulness"].astype(float))]
    charts = [(upper, drawn, "value")]
    if len(faithful):
        lower = faithfulness_axes(faithful, upper.bottom + GAP, PANEL)
        charts.append((replace(lower, edges=upper.edges, total=upper.total), faithful, "faithfulness"))
    look = {family: i % LOOKS for i, family in enumerate(_families(drawn))}
    metric = str(drawn["metric"].iloc[0])
    scale = ", log scale" if upper.is_log else ""
    titles = {"value": TITLES.get(metric, metric) + scale, "faithfulness": "faithfulness"}
    parts: list[object] = []
    y = 0.0
    for axes, part, column in charts:
        series = [_series(family, part, column, axes, look[family]) for family in look]
        series = [one for one in series if one.points]
        strong = (0.0, 1.0) if column == "faithfulness" else ()
        is_lowest = axes is charts[-1][0]
        parts.append(grid(axes, titles[column], strong, is_lowest=is_lowest))
        parts += _ends(drawn, axes) if column == "value" else []
        parts += [*curves(series[::-1]), *point_labels(series, axes)]  # sweeps lie on top
        if column == "value":
            rows_of_legend, y = legend(series)
            parts += [*rows_of_legend, text(LEFT + WIDE + 20, y + 4, "at points: threshold", "muted small")]
    bottom = charts[-1][0].bottom
    notes = _notes(rows)
    parts += [text(LEFT, bottom + 66 + 15 * i, note, "muted small") for i, note in enumerate(notes)]
    height = max(bottom + 54 + (8 + 15 * len(notes) if notes else 0), y + 12)
    label = f"{metric} and faithfulness against the number of edges kept, for {', '.join(look)}"
    return figure("pareto", LEFT + WIDE + LEGEND, height, label, *parts)


def _families(rows: pd.DataFrame) -> list[str]:
    """Those with a threshold first: the sweeps are what the charts are about."""
    swept = rows.groupby("family", sort=False)["threshold"].count() > 0
    return [*swept[swept].index, *swept[~swept].index]


def _metric_axes(rows: pd.DataFrame) -> Axes:
    """Logarithmic for a divergence, where what matters is how near to 0 it comes; else linear."""
    value, metric = rows["value"], METRICS.get(str(rows["metric"].iloc[0]))
    full, empty = float(rows["metric_full"].iloc[0]), float(rows["metric_empty"].iloc[0])
    ends = sorted(empty + share * (full - empty) for share in SHOWN)
    shown = (ends[0], ends[1]) if ends[0] < ends[1] else (float(value.min()), float(value.max()))
    span, total = span_of(rows["n_edges"].tolist()), edges_in_all(rows)
    if metric is not None and metric.needs_reference and empty > 0:
        least = 10.0 ** math.floor(math.log10(LEAST * empty))
        low = max(float(value.min()), least)
        high = max(min(float(value.max()), shown[1]), empty)
        return Axes(span, (low / 1.3, high * 1.3), (low, high), total, TOP, PANEL, is_log=True)
    inside = value.clip(*shown)
    low, high = min(float(inside.min()), full, empty), max(float(inside.max()), full, empty)
    air = 0.05 * (high - low) or 1.0
    return Axes(span, (low - air, high + air), shown, total, TOP, PANEL)


def _ends(rows: pd.DataFrame, axes: Axes) -> list[Markup]:
    """Lines where no edge, and where the whole model is; the latter not on a scale that has no 0."""
    parts = []
    for words, column in (("no edges", "metric_empty"), ("whole model", "metric_full")):
        value = float(rows[column].iloc[0])
        if axes.limits[0] < value < axes.limits[1]:
            y = axes.y(value)
            parts.append(line(LEFT, y, LEFT + WIDE, y, "end"))
            # few edges do little and many do all: at the other end the words are out of the way
            x, anchor = (LEFT + WIDE - 4, "end") if column == "metric_empty" else (LEFT + 6, None)
            parts.append(text(x, y - 5, f"{words}: {number(value)}", "muted small", anchor))
    return parts


def _series(family: str, rows: pd.DataFrame, column: str, axes: Axes, look: int) -> Series:
    """The points of a family; circuits at one place share a label."""
    part = rows[rows["family"] == family].sort_values(["n_edges", "threshold"], kind="stable")
    found: dict[tuple[int, int], list[Point]] = {}
    for row in part.to_dict("records"):
        threshold = float(row["threshold"])
        written = "" if np.isnan(threshold) else f"{threshold:g}"
        words = f"{words_of(row)}; {row['metric']} {number(float(row['value']))}"
        point = axes.point(int(row["n_edges"]), float(row[column]), words, written)
        found.setdefault((round(point.x), round(point.y)), []).append(point)
    points = []
    for together in found.values():
        label = ", ".join(dict.fromkeys(p.label for p in together if p.label))
        points.append(replace(together[0], label=label, words="\n".join(p.words for p in together)))
    return Series(family, None, look, len(part) > 1, tuple(points))


def _notes(rows: pd.DataFrame) -> list[str]:
    """What could not be drawn, in words."""
    empty = list(rows.loc[rows["n_edges"] == 0, "method"].drop_duplicates())
    undefined = rows["faithfulness"].isna().sum()
    notes = [f"no edge is kept by {', '.join(empty)}"] if empty else []
    return notes + ([f"{undefined} of {len(rows)} circuits have no faithfulness"] if undefined else [])
