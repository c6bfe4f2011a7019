"""How each type of result is shown: which columns name a row, which rows come first, and what is drawn above them.

Knows merged frames. Does not know how a figure is drawn, nor the rest of the page. A type without a row of its own here
is shown by its axes, with a heat map of its first two.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from markupsafe import Markup

from pipeline.core.graph import Graph
from pipeline.core.results import EDGE_SCORES, NODE_SCORES, ResultType
from pipeline.methods.attention import ATTENTION, PROMPT_ATTENTION
from pipeline.report.attention_figure import attention_svg
from pipeline.report.axes_figure import axes_svg
from pipeline.report.node_figure import node_heatmap_svg

Frame: TypeAlias = pd.DataFrame


@dataclass(frozen=True)
class Panel:
    """`columns` names a row, with the heading of each; `rows` orders and completes a frame; `figure` draws it, None
    where the page draws circuits."""

    title: str
    columns: Mapping[str, str]
    rows: Callable[[Frame, Graph], Frame]
    figure: Callable[[Frame], Markup] | None = None


def _edges(frame: Frame, graph: Graph) -> Frame:
    by_rank = frame.sort_values("rank", kind="stable")
    return by_rank.assign(edge=[graph.edge_name(int(i)) for i in by_rank["edge_id"]])


def _by_size(frame: Frame, graph: Graph) -> Frame:
    del graph
    return frame.iloc[np.argsort(-frame["score"].abs().to_numpy(), kind="stable")]


def _nodes(frame: Frame, graph: Graph) -> Frame:
    by_size = _by_size(frame, graph)
    return by_size.assign(span=by_size["span"].astype(object).where(by_size["span"].notna(), "all"))


def _by_side(frame: Frame, graph: Graph) -> Frame:
    return _by_size(frame, graph).sort_values("quantity", kind="stable")  # clean, corrupted


_PLACES = {"node": "head", "span_to": "from", "span": "at", "quantity": "in"}
PANELS: dict[ResultType, Panel] = {
    **{
        one: Panel("Where heads look", _PLACES, _by_side, attention_svg)
        for one in (ATTENTION, PROMPT_ATTENTION)
    },
    EDGE_SCORES: Panel("Strongest edges", {"edge": "edge"}, _edges),
    NODE_SCORES: Panel("Strongest nodes", {"node": "node", "span": "position"}, _nodes, node_heatmap_svg),
}


def panel_of(type_: ResultType) -> Panel:
    """The panel of a type of result."""
    if type_ in PANELS:
        return PANELS[type_]
    names: dict[str, str] = {axis: axis.replace("_", " ") for axis in type_.axes}
    return Panel(
        f"Largest by {', '.join(names.values())}", names, _by_size, lambda frame: axes_svg(frame, type_)
    )


def with_score(frame: Frame, type_: ResultType) -> Frame:
    """A merged frame in which the value is called score, and axes without a value say `all`."""
    frame = frame.rename(columns={type_.value: "score"})
    for axis in type_.axes:
        column = {"edge": "edge_id", "node": "node", "prompt": "prompt_id"}.get(axis, axis)
        if column != axis:
            frame = frame.assign(**{axis: frame[column]})
        if type_ not in PANELS:
            frame = frame.assign(**{axis: _plain(frame[axis])})
    return frame


def _plain(column: Any) -> Any:
    return column.astype(object).where(column.notna(), "all")
