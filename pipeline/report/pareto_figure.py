"""What a circuit costs and what it does: edges kept against the metric, and against faithfulness.

Knows the rows of `Run.pareto()` at one metric and ablation of one task. Does not know how they were found.
"""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
from markupsafe import Markup

from pipeline.metrics import METRICS
from pipeline.report.chart import LEFT, LOOKS, TOP, WIDE, Axes, Point, Series, curves, grid, legend
from pipeline.report.evaluated import SHOWN, chart_figure, linear_axes, log_axes, with_value, words_of
from pipeline.report.labels import point_labels
from pipeline.report.svg import line, message, number, text

PANEL, GAP = 270, 30
# Of what no edges have: a divergence below that power of ten is drawn at the bottom, at its tick.
LEAST = 1e-4
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
    drawn = with_value(rows, "metric_circuit")
    if drawn.empty:
        return message("No circuit keeps an edge.")
    look = {family: i % LOOKS for i, family in enumerate(_families(drawn))}
    metric = str(drawn["metric"].iloc[0])
    upper = _metric_axes(drawn)
    series = _all_series(drawn, upper, look)
    keys, keys_end = legend(series)
    hint = text(LEFT + WIDE + 20, keys_end + 4, "at points: threshold", "muted small")
    title = TITLES.get(metric, metric) + (", log scale" if upper.is_log else "")
    faithful = with_value(drawn, "faithfulness")
    parts = [grid(upper, title, is_lowest=faithful.empty), *_ends(drawn, upper)]
    parts += [*_marks(series, upper), *keys, hint]
    bottom = upper.bottom
    if len(faithful):
        lower = linear_axes(faithful, (0.0, 1.0), SHOWN, upper.bottom + GAP, PANEL)
        lower = replace(lower, edges=upper.edges, total=upper.total)
        parts.append(grid(lower, "faithfulness", (0.0, 1.0)))
        parts += _marks(_all_series(faithful, lower, look), lower)
        bottom = lower.bottom
    label = f"{metric} and faithfulness against the number of edges kept, for {', '.join(look)}"
    return chart_figure("pareto", label, bottom, keys_end + 12, _notes(rows), *parts)


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
    if metric is not None and metric.needs_reference and empty > 0:
        least = 10.0 ** math.floor(math.log10(LEAST * empty))
        low = max(float(value.min()), least)
        return log_axes(rows, low, max(min(float(value.max()), shown[1]), empty), TOP, PANEL)
    return linear_axes(rows, (full, empty), shown, TOP, PANEL)


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
            parts.append(
                text(x, y - 5, f"{words}: {number(value, scale=_scale(rows))}", "muted small", anchor)
            )
    return parts


def _scale(rows: pd.DataFrame) -> float:
    """How large the metric is in these rows, with all edges or with none."""
    return float(rows[["metric_full", "metric_empty"]].abs().max(axis=None))


def _marks(series: list[Series], axes: Axes) -> list[Markup]:
    """Curves, sweeps on top, and the labels of their points."""
    return [*curves(series[::-1]), *point_labels(series, axes)]


def _all_series(rows: pd.DataFrame, axes: Axes, look: dict[str, int]) -> list[Series]:
    """One for each family that has rows."""
    series = [_series(family, rows[rows["family"] == family], axes, look[family]) for family in look]
    return [one for one in series if one.points]


def _series(family: str, rows: pd.DataFrame, axes: Axes, look: int) -> Series:
    """The points of a family; circuits at one place share a label."""
    found: dict[tuple[int, int], list[Point]] = {}
    for row in rows.sort_values(["n_edges", "threshold"], kind="stable").to_dict("records"):
        threshold = float(row["threshold"])
        written = "" if np.isnan(threshold) else f"{threshold:g}"
        words = f"{words_of(row)}; {row['metric']} {number(float(row['metric_circuit']), scale=_scale(rows))}"
        point = axes.point(int(row["n_edges"]), float(row["value"]), words, written)
        found.setdefault((round(point.x), round(point.y)), []).append(point)
    points = []
    for together in found.values():
        label = ", ".join(dict.fromkeys(p.label for p in together if p.label))
        points.append(replace(together[0], label=label, words="\n".join(p.words for p in together)))
    return Series(family, None, look, len(rows) > 1, tuple(points))


def _notes(rows: pd.DataFrame) -> list[str]:
    """What could not be drawn, in words."""
    empty = list(rows.loc[rows["n_edges"] == 0, "method"].drop_duplicates())
    undefined = rows["faithfulness"].isna().sum()
    notes = [f"no edge is kept by {', '.join(empty)}"] if empty else []
    return notes + ([f"{undefined} of {len(rows)} circuits have no faithfulness"] if undefined else [])
