"""Where heads look, as a heat map: a row per head, a column per pair of places, clean beside corrupted.

Knows a merged frame of shares. Does not know heads' roles, nor models.
"""

import pandas as pd
from markupsafe import Markup

from pipeline.core.results import ResultType
from pipeline.report.axes_figure import MOST, axes_svg

_DRAWN = ResultType("attention", ("node", "span"), value="share")


def attention_svg(frame: pd.DataFrame) -> Markup:
    """The heads that look most at one of the places in the clean prompts, the first on top."""
    words = {axis: frame[axis].astype(str) for axis in ("node", "span_to", "span", "quantity")}
    side = words["quantity"].map({"clean": "", "corrupted": ", corrupted"})
    drawn = frame.assign(node=words["node"], span=words["span_to"] + " at " + words["span"] + side)
    clean = drawn[words["quantity"] == "clean"]
    means = clean.groupby(["node", "span"], sort=False)["score"].mean()
    most = means.groupby("node", sort=False).max().sort_values(ascending=False, kind="stable")
    place = {node: number for number, node in enumerate(most.index[:MOST])}
    shown = drawn[drawn["node"].isin(place)]
    order = shown.assign(at=-shown["node"].map(place)).sort_values(["at", "quantity"], kind="stable")
    return axes_svg(order, _DRAWN)
