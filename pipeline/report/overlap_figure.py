"""Which kept circuits are alike: every pair, by the share of their edges that both have.

Knows pairs as `Run.overlap()` gives them. Does not know how circuits were found.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from pipeline.report.svg import figure, message, tag, text

HIGH = 22


def overlap_svg(pairs: Sequence[Mapping[str, Any]]) -> Markup:
    """A triangle, a cell per pair: `method other n_edges other_edges common either jaccard`. Rows and columns stand in
    the order in which the pairs come."""
    if not pairs:
        return message("There is one circuit or none: nothing to compare.")
    sizes = {pair["method"]: pair["n_edges"] for pair in pairs}
    sizes |= {pair["other"]: pair["other_edges"] for pair in pairs}
    columns, names = list(sizes)[:-1], list(sizes)[1:]
    rows = [f"{name} · {sizes[name]:,} edges" for name in names]
    wide = float(np.clip(660 / len(columns), 20, 58))
    left = 14 + 6.6 * max(map(len, rows))
    head = 16 + 4.4 * max(len(f"{name} · {sizes[name]:,}") for name in columns)
    parts = []
    for j, name in enumerate(columns):
        turn = f"translate({left + wide * (j + 0.5):.1f} {head - 6:.1f}) rotate(-40)"
        label = f"{name} · {sizes[name]:,}"
        parts.append(tag("text", label, x=0, y=0, class_="muted small", transform=turn))
    for i, row in enumerate(rows):
        parts.append(text(left - 7, head + HIGH * (i + 0.5) + 4, row, "muted small", "end"))
    for pair in pairs:
        x, y = left + wide * columns.index(pair["method"]), head + HIGH * names.index(pair["other"])
        parts.append(_cell(pair, x, y, wide))
    width = left + wide * len(columns) + 5.2 * max(map(len, columns)) + 30
    return figure(
        "overlap", width, head + HIGH * len(rows) + 6, "Overlap of kept circuits, pair by pair", *parts
    )


def _cell(pair: Mapping[str, Any], x: float, y: float, wide: float) -> Markup:
    share = pair["jaccard"]
    words = f"{pair['method']} and {pair['other']}: {pair['common']:,} edges in common of {pair['either']:,} in either"
    rect = {"x": x + 0.75, "y": y + 0.75, "width": wide - 1.5, "height": HIGH - 1.5, "rx": 2}
    parts = [tag("title", words), tag("rect", **rect, class_="none")]
    if share >= 0.005:
        parts.append(tag("rect", **rect, class_="pos", fill_opacity=f"{share:.2f}"))
    class_ = "small on" if share > 0.6 else "small"
    written = f"{100 * share:.0f} %" if wide >= 36 else f"{100 * share:.0f}"
    parts.append(text(x + wide / 2, y + HIGH / 2 + 4, written, class_, "middle"))
    return tag("g", *parts)
