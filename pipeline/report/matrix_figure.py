"""A matrix of faithfulness as a heat map with its numbers: circuits downwards, prompts to the right.

Knows matrices as `report.matrices` gives them. Does not know what was compared.
"""

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from pipeline.report.svg import figure, number, tag, text

_HIGH = 24


def matrix_svg(matrix: Mapping[str, Any]) -> Markup:
    """The darker, the nearer to 1: what is as far above it is as pale as what is below; red is below zero."""
    circuits, prompts = matrix["circuits"], matrix["prompts"]
    left = 24 + 6.6 * max(map(len, circuits))
    wide = max(56.0, 14 + 6.0 * max(map(len, prompts)))
    parts = [text(left, 12, "circuit of, downwards; prompts of, to the right", "muted small")]
    parts += [
        text(left + wide * (j + 0.5), 32, name, "muted small", "middle") for j, name in enumerate(prompts)
    ]
    for i, (circuit, row) in enumerate(zip(circuits, matrix["cells"], strict=True)):
        y = 40 + _HIGH * i
        parts.append(text(left - 7, y + _HIGH / 2 + 4, circuit, "muted small", "end"))
        for j, (on, cell) in enumerate(zip(prompts, row, strict=True)):
            parts.append(_cell(f"circuit of {circuit}, prompts of {on}", cell, left + wide * j, y, wide))
    width = max(left + wide * len(prompts) + 8, 380.0)
    label = f"Faithfulness of circuits of {matrix['method']} on the prompts of each"
    return figure("matrix", width, 46 + _HIGH * len(circuits), label, *parts)


def _cell(words: str, cell: Mapping[str, Any], x: float, y: float, wide: float) -> Markup:
    value = cell.get("value")
    rect = {"x": x + 0.75, "y": y + 0.75, "width": wide - 1.5, "height": _HIGH - 1.5, "rx": 2}
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
        text(x + wide / 2, y + _HIGH / 2 + 4, written, "small on" if shade > 0.6 else "small", "middle")
    )
    return tag("g", *parts)
