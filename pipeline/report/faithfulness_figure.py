"""How faithful the circuits are: edges kept against the share of the behaviour that they restore.

Knows the frame of exact evaluations. Does not know how a circuit was evaluated, nor how a chart is drawn.
"""

from collections.abc import Sequence
from operator import itemgetter
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from pipeline.report.chart import LOOKS, Axes, Point, Series, curves, grid, legend
from pipeline.report.evaluated import SHOWN, chart_figure, linear_axes, with_value, words_of
from pipeline.report.labels import names
from pipeline.report.svg import message


def faithfulness_svg(frame: pd.DataFrame) -> Markup:
    """One chart for the methods of a task: `method edge_fraction n_edges n_edges_pruned faithfulness`; with `family`,
    methods of a family are one curve.

    Rows without `edge_fraction` are a method's own decision; a single one stands as a point. A faithfulness of null
    (the metric does not move when everything is ablated) has no place here and is counted below the axis.
    """
    known = with_value(frame, "faithfulness")
    if known.empty:
        return message("No faithfulness: ablating every edge leaves the metric where it was.")
    known = known.assign(metric=known.get("metric", "metric"), family=known.get("family", known["method"]))
    axes = linear_axes(known, (0.0, 1.0), SHOWN)
    several = len(set(known["metric"])) > 1
    of_curves: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in known.to_dict("records"):
        of_curves.setdefault((str(row["family"]), str(row["metric"])), []).append(row)
    series = [
        Series(
            family,
            metric if several else None,
            look % LOOKS,
            any(not pd.isna(row["edge_fraction"]) for row in part) or len(part) > 1,
            _points(part, axes),
        )
        for look, ((family, metric), part) in enumerate(of_curves.items())
    ]
    series.sort(key=lambda s: -float(np.mean([p.value for p in s.points])))
    n_all = int((frame["n_edges"] > 0).sum())
    n_undefined = n_all - len(known)
    keys, keys_end = legend(series)
    return chart_figure(
        "faithfulness",
        "Faithfulness against the number of edges kept, for " + ", ".join(s.method for s in series),
        axes.bottom,
        keys_end,
        [f"{n_undefined} of {n_all} evaluations have no faithfulness"] if n_undefined else [],
        grid(axes, "faithfulness", (0, 1)),
        *curves(series),
        *names(series, axes),
        *keys,
    )


def _points(part: Sequence[dict[str, Any]], axes: Axes) -> tuple[Point, ...]:
    rows = sorted(part, key=itemgetter("n_edges"))
    return tuple(axes.point(int(row["n_edges"]), float(row["value"]), words_of(row)) for row in rows)
