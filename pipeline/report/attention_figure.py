"""Where heads look, as heat maps: one for each place that looks, a row per head, a column per place that is looked at,
clean beside corrupted.

Knows a merged frame of shares. Does not know heads' roles, nor models.
"""

import pandas as pd
from markupsafe import Markup

from pipeline.core.results import ResultType
from pipeline.report.axes_figure import MOST, axes_svg
from pipeline.report.svg import message

_DRAWN = ResultType("attention", ("node", "span"), value="share")
_SEEN = 0.005  # a place that no head looks at more than that is not drawn: most lie ahead


def attention_svg(frame: pd.DataFrame) -> Markup:
    """The heads that look most at one of the places in the clean prompts, the first on top."""
    words = {axis: frame[axis].astype(str) for axis in ("node", "span_to", "span", "quantity")}
    side = words["quantity"].map({"clean": "", "corrupted": ", corrupted"})
    drawn = frame.assign(**words).assign(span=words["span"] + side)
    figures = [_looking(rows, to) for to, rows in drawn.groupby("span_to", sort=False)]
    return Markup("").join(figures) if figures else message("Nothing was measured.")


def _looking(rows: pd.DataFrame, to: str) -> Markup:
    """The heat map of one place that looks."""
    means = rows.groupby(["quantity", "span", "node"], sort=False)["score"].mean()
    seen = means.groupby("span", sort=False).max()
    clean = means.xs("clean", level="quantity").groupby("node", sort=False).max()
    most = clean.sort_values(ascending=False, kind="stable").index[:MOST]
    place = {node: -number for number, node in enumerate(most)}
    shown = rows[rows["node"].isin(place) & rows["span"].isin(seen.index[seen >= _SEEN])]
    order = shown.assign(at=shown["node"].map(place)).sort_values(["at", "quantity"], kind="stable")
    return axes_svg(order, _DRAWN, f"from {to}: the share of each head's attention that goes to")
