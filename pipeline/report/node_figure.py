"""What patching single nodes does, as a heat map: node by span of positions, or layer by head.

Knows the frame of node scores. Does not know how a node was patched.
"""

import re

import numpy as np
import pandas as pd
from markupsafe import Markup

from pipeline.report.svg import figure, message, number, tag, text

SHOWN_ROWS = 36
_NAME = re.compile(r"^(?:a(\d+)\.h(\d+)|m(\d+)|input|logits)$")


def node_heatmap_svg(frame: pd.DataFrame, limit: int = SHOWN_ROWS) -> Markup:
    """Blue helps, orange hurts, strength is |score| relative to the largest.

    `frame` has `node span score` and, where known, `score_sem`. With spans: the `limit` nodes of largest
    |score| in any span, in the order of the graph. Without: every layer by head, MLP and input.
    """
    rows = frame[np.isfinite(pd.to_numeric(frame["score"]).astype(float))]
    if rows.empty:
        return message("No node was measured.")
    span = rows["span"] if "span" in rows else pd.Series([None] * len(rows), index=rows.index)
    rows = rows.assign(
        node=rows["node"].astype(str), span=span.astype(object).where(span.notna(), "all positions")
    )
    top = float(rows["score"].abs().max()) or 1.0
    if set(rows["span"]) == {"all positions"}:
        return _by_head(rows, top)
    return _by_span(rows, top, limit)


def _by_head(rows: pd.DataFrame, top: float) -> Markup:
    """Layers upwards as in the circuit; a column per head, then the MLP; input below."""
    places = {name: _place(name) for name in rows["node"]}
    heads = 1 + max((head for layer, head in places.values() if head is not None and head >= 0), default=-1)
    layers = 1 + max(layer for layer, _ in places.values())
    columns = [f"h{i}" for i in range(heads)] + ["MLP"]
    cells: dict[tuple[int, int], dict[str, object]] = {}
    for record in rows.to_dict("records"):
        layer, head = places[record["node"]]
        row = layers - 1 - layer if layer >= 0 else layers
        cells[row, len(columns) - 1 if head == -1 else (head or 0)] = record
    names = [f"layer {i}" for i in reversed(range(layers))]
    if any(layer < 0 for layer, _ in places.values()):
        names.append("input")
    wide = float(np.clip(900 / len(columns), 24, 58))
    return _grid(names, columns, cells, top, wide, 26, "Node scores, layer by head", "")


def _by_span(rows: pd.DataFrame, top: float, limit: int) -> Markup:
    spans = list(dict.fromkeys(rows["span"]))
    numbered = all(str(s).lstrip("-").isdigit() for s in spans)
    spans = sorted(spans, key=int) if numbered else spans
    order = list(
        dict.fromkeys(
            rows.sort_values("node_id", kind="stable")["node"] if "node_id" in rows else rows["node"]
        )
    )
    peak = rows.groupby("node", sort=False)["score"].agg(lambda s: s.abs().max())
    shown = set(peak.sort_values(ascending=False, kind="stable").index[:limit])
    names = [name for name in reversed(order) if name in shown]
    row_of, column_of = {n: i for i, n in enumerate(names)}, {s: i for i, s in enumerate(spans)}
    cells = {
        (row_of[r["node"]], column_of[r["span"]]): r for r in rows.to_dict("records") if r["node"] in shown
    }
    left_out = len(order) - len(names)
    note = f"{left_out} nodes of smaller |score| are left out" if left_out else ""
    wide = float(np.clip(900 / len(spans), 22, 92))
    return _grid(names, [str(s) for s in spans], cells, top, wide, 20, "Node scores, node by position", note)


def _place(name: str) -> tuple[int, int | None]:
    """(layer, head), head -1 for an MLP; (-1, 0) for input."""
    found = _NAME.match(name)
    if found is None or name in ("input", "logits"):
        return -1, 0
    layer, head, mlp = found.groups()
    return (int(mlp), -1) if mlp is not None else (int(layer), int(head))


def _grid(
    names: list[str],
    columns: list[str],
    cells: dict[tuple[int, int], dict[str, object]],
    top: float,
    wide: float,
    high: float,
    label: str,
    note: str,
) -> Markup:
    left = 14 + 6.6 * max(len(n) for n in names)
    slanted = max(len(c) for c in columns) * 6.6 > wide - 4
    head = 22 if not slanted else 14 + 4.4 * max(len(c) for c in columns)
    parts = []
    for j, column in enumerate(columns):
        x = left + wide * (j + 0.5)
        if slanted:
            turn = f"translate({x:.1f} {head - 6:.1f}) rotate(-40)"
            parts.append(tag("text", column, x=0, y=0, class_="muted small", transform=turn))
        else:
            parts.append(text(x, head - 7, column, "muted small", "middle"))
    for i, name in enumerate(names):
        parts.append(text(left - 7, head + high * (i + 0.5) + 4, name, "muted small", "end"))
    for (i, j), record in sorted(cells.items(), key=lambda kv: kv[0]):
        parts.append(_cell(record, left + wide * j, head + high * i, wide, high, top))
    bottom = head + high * len(names)
    width = max(left + wide * len(columns) + (40 if slanted else 8), 470.0)
    parts.append(_scale(left, bottom + 16, top))
    if note:
        parts.append(text(left, bottom + 56, note, "muted small"))
    return figure("nodes", width, bottom + (66 if note else 48), label, *parts)


def _cell(record: dict[str, object], x: float, y: float, wide: float, high: float, top: float) -> Markup:
    value = float(record["score"])  # type: ignore[arg-type]
    sem = record.get("score_sem")
    spread = f" ± {number(float(sem))}" if sem is not None and not pd.isna(sem) else ""  # type: ignore[arg-type]
    where = "" if record["span"] == "all positions" else f" at {record['span']}"
    share = abs(value) / top
    rect = {"x": x + 0.75, "y": y + 0.75, "width": wide - 1.5, "height": high - 1.5, "rx": 2}
    parts = [
        tag("title", f"{record['node']}{where}  {number(value, sign=True)}{spread}"),
        tag("rect", **rect, class_="none"),
    ]
    if share >= 0.01:
        parts.append(tag("rect", **rect, class_="neg" if value < 0 else "pos", fill_opacity=f"{share:.2f}"))
    if share >= 0.2 and wide >= 40:
        parts.append(
            text(
                x + wide / 2,
                y + high / 2 + 4,
                number(value, digits=2),
                "small on" if share > 0.6 else "small",
                "middle",
            )
        )
    return tag("g", *parts)


def _scale(x: float, y: float, top: float) -> Markup:
    """The key: steps of opacity from the most negative to the most positive."""
    parts = [text(x, y + 10, number(-top, digits=2), "small")]
    start, steps, wide = x + 46, 10, 13
    for i in range(-steps, steps + 1):
        at = start + (i + steps) * wide
        parts.append(tag("rect", x=at, y=y, width=wide, height=12, class_="none"))
        if i:
            parts.append(
                tag(
                    "rect",
                    x=at,
                    y=y,
                    width=wide,
                    height=12,
                    class_="neg" if i < 0 else "pos",
                    fill_opacity=f"{abs(i) / steps:.2f}",
                )
            )
    end = start + (2 * steps + 1) * wide
    parts.append(text(end + 8, y + 10, number(top, sign=True, digits=2), "small"))
    parts += [text(start, y + 25, "hurts", "muted small"), text(end, y + 25, "helps", "muted small", "end")]
    return tag("g", *parts)
