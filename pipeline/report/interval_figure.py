"""A score with its 95 % interval as a whisker, small enough for a table row. Knows three numbers."""

import math

from markupsafe import Markup

from pipeline.report.svg import figure, line, number, tag

WIDE, HIGH = 150, 16


def interval_svg(score: float, low: float | None, high: float | None, reach: float) -> Markup:
    """A point on an axis from -`reach` to `reach`, zero in the middle; no whisker where none is known."""

    def place(value: float) -> float:
        return WIDE / 2 + (WIDE / 2 - 5) * max(-1.0, min(1.0, value / reach if reach else 0.0))

    sign = "neg" if score < 0 else "pos"
    parts = [line(WIDE / 2, 1, WIDE / 2, HIGH - 1, "rule")]
    known = low is not None and high is not None and math.isfinite(low) and math.isfinite(high)
    if known and low is not None and high is not None:
        parts.append(
            tag(
                "rect",
                x=place(low),
                y=HIGH / 2 - 1.5,
                width=max(place(high) - place(low), 1.0),
                height=3,
                class_=sign,
                fill_opacity="0.45",
            )
        )
    parts.append(tag("circle", cx=place(score), cy=HIGH / 2, r=3.6, class_=f"dot {sign}"))
    label = f"{number(score, sign=True)}" + (f", 95 % from {number(low)} to {number(high)}" if known else "")
    return figure("interval", WIDE, HIGH, label, *parts)
