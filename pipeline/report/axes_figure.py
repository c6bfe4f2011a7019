"""Values by two axes, whatever they are, as a heat map; the mean over all other axes but the quantity.

Knows a merged frame and the type of its rows. Does not know what was measured.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from markupsafe import Markup

from pipeline.core.results import NAMED, ResultType
from pipeline.report.svg import figure, message, number, tag, text

MOST = 60  # rows and columns
_WIDE, _HIGH = 34.0, 20.0


def axes_svg(frame: pd.DataFrame, type_: ResultType, caption: str = "") -> Markup:
    """The first quantity by the first axis (upwards) and the second (to the right) that have several values; blue is
    above zero. `caption` says above it what it shows, instead of the axes."""
    axes: list[str] = [axis for axis in type_.axes if axis != "quantity"]
    rows = frame[np.isfinite(pd.to_numeric(frame["score"]).astype(float))]
    if rows.empty:
        return message("Nothing was measured.")
    title = type_.name.replace("_", " ")
    if "quantity" in type_.axes:
        first = rows["quantity"].iloc[0]
        rows, title = rows[rows["quantity"] == first], f"{title}: {first}"
    axes = [axis for axis in axes if len(set(rows[axis])) > 1] or axes[:1]  # one value needs no axis
    if len(axes) == 1:
        axes, rows = [*axes, " "], rows.assign(**{" ": ""})
    table = rows.pivot_table(index=axes[0], columns=axes[1], values="score", observed=True, sort=False)
    table = table.loc[_ordered(table.index, axes[0])[:MOST], _ordered(table.columns, axes[1])[:MOST]].iloc[
        ::-1
    ]
    return _drawn(table, title, axes, caption)


def _ordered(values: pd.Index, axis: str) -> list[object]:
    """Numbers by size, names as they come."""
    return list(values) if axis in (*NAMED, "node", "edge", " ") else sorted(values)


def _drawn(table: pd.DataFrame, title: str, axes: Sequence[str], caption: str) -> Markup:
    top = float(table.abs().max().max()) or 1.0
    names, columns = [str(one) for one in table.index], [str(one) for one in table.columns]
    left = 40 + 6.6 * max(len(name) for name in names)
    wide = max(_WIDE, 6.6 * max(len(column) for column in columns) + 6)
    said = caption or f"{axes[0]} up, {axes[1]} to the right".replace(",  to the right", "")
    parts = [text(left, 12, said, "muted small")]
    parts += [text(left + wide * (j + 0.5), 30, c, "muted small", "middle") for j, c in enumerate(columns)]
    for i, name in enumerate(names):
        y = 36 + _HIGH * i
        parts.append(text(left - 7, y + _HIGH / 2 + 4, name, "muted small", "end"))
        for j, column in enumerate(columns):
            value = float(table.iloc[i, j])
            if np.isnan(value):
                continue
            rect = {
                "x": left + wide * j + 0.75,
                "y": y + 0.75,
                "width": wide - 1.5,
                "height": _HIGH - 1.5,
                "rx": 2,
            }
            shade = "neg" if value < 0 else "pos"
            parts.append(
                tag(
                    "g",
                    tag("title", f"{axes[0]} {name}, {axes[1]} {column}  {number(value, sign=True)}"),
                    tag("rect", **rect, class_="none"),
                    tag("rect", **rect, class_=shade, fill_opacity=f"{abs(value) / top:.2f}"),
                )
            )
    bottom = 36 + _HIGH * len(names)
    parts.append(text(left, bottom + 18, f"darkest: {number(top)}", "muted small"))
    return figure("axes", max(left + wide * len(columns) + 8, 470.0), bottom + 28, title, *parts)
