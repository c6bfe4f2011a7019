"""A matrix of faithfulness as a heat map with its numbers: circuits downwards, prompts to the right.

Knows matrices as `report.matrices` gives them. Does not know what was compared.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from pipeline.report.svg import figure, number, tag, text

_HIGH, _LINE = 24, 12
_COLUMN, _ROW = 13, 24  # letters of a name in a line; long names are broken, so that cells stay narrow


def matrix_svg(matrix: Mapping[str, Any]) -> Markup:
    """The darker, the nearer to 1: what is as far above it is as pale as what is below; red is below zero."""
    circuits, prompts = matrix["circuits"], matrix["prompts"]
    rows, columns = [broken(name, _ROW) for name in circuits], [broken(name, _COLUMN) for name in prompts]
    left = 14 + 6.6 * _longest(rows)
    wide = max(56.0, 12 + 6.4 * _longest(columns))
    top = 26 + _LINE * max(map(len, columns))
    parts = [text(0, 12, "circuit of, downwards; prompts of, to the right", "muted small")]
    for j, lines in enumerate(columns):
        parts += _lines(lines, left + wide * (j + 0.5), top - 6 - _LINE * (len(lines) - 1), "middle")
    y = float(top)
    for circuit, lines, row in zip(circuits, rows, matrix["cells"], strict=True):
        high = max(_HIGH, _LINE * len(lines) + 4)
        parts += _lines(lines, left - 7, y + high / 2 + 4 - _LINE / 2 * (len(lines) - 1), "end")
        for j, (on, cell) in enumerate(zip(prompts, row, strict=True)):
            place = (left + wide * j, y, wide, float(high))
            parts.append(_cell(f"circuit of {circuit}, prompts of {on}", cell, *place))
        y += high
    width = max(left + wide * len(prompts) + 2, 290.0)
    label = f"Faithfulness of circuits of {matrix['method']} on the prompts of each"
    return figure("matrix", width, y + 6, label, *parts)


def broken(name: str, most: int) -> list[str]:
    """A name in lines of at most so many letters, broken behind hyphens and underscores where that can be."""
    pieces = re.findall(r"[^-_]+[-_]*|[-_]+", name)
    lines = [""]
    for piece in (part[i : i + most] for part in pieces for i in range(0, len(part), most)):
        if len(lines[-1]) + len(piece) <= most:
            lines[-1] += piece
        else:
            lines.append(piece)
    return [line for line in lines if line] or [name]


def _longest(names: Sequence[Sequence[str]]) -> int:
    return max(len(line) for lines in names for line in lines)


def _lines(lines: Sequence[str], x: float, y: float, anchor: str) -> list[Markup]:
    return [text(x, y + _LINE * i, line, "muted small", anchor) for i, line in enumerate(lines)]


def _cell(words: str, cell: Mapping[str, Any], x: float, y: float, wide: float, tall: float) -> Markup:
    value = cell.get("value")
    rect = {"x": x + 0.75, "y": y + 0.75, "width": wide - 1.5, "height": tall - 1.5, "rx": 2}
    low, high = cell.get("low"), cell.get("high")
    ends = (
        ""
        if low is None or high is None
        else f", 95 % interval {number(low, scale=1)} to {number(high, scale=1)}"
    )
    parts = [tag("title", f"{words}: {number(value, scale=1)}{ends}"), tag("rect", **rect, class_="none")]
    shade = 0.0 if value is None else min(1.0, abs(value) if value <= 1 else max(0.0, 2 - value))
    if value is not None and shade >= 0.005:
        parts.append(tag("rect", **rect, class_="neg" if value < 0 else "pos", fill_opacity=f"{shade:.2f}"))
    written = "-" if value is None else f"{value:.2f}"
    parts.append(
        text(x + wide / 2, y + tall / 2 + 4, written, "small on" if shade > 0.6 else "small", "middle")
    )
    return tag("g", *parts)
