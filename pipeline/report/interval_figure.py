"""A score with its 95 % intervals as a whisker, small enough for a table row. Knows five numbers."""

import math

from markupsafe import Markup

from pipeline.report.svg import figure, line, number, tag

WIDE, HIGH = 150, 16
CAP = 4.5  # half the height of a bracket's ends
Ends = tuple[float | None, float | None]


def interval_svg(score: float, student: Ends, bootstrap: Ends, reach: float) -> Markup:
    """A point on an axis from -`reach` to `reach`, zero in the middle: over a bar from end to end of Student's
    interval and a bracket around that of the bootstrap, where they are known."""

    def place(value: float) -> float:
        return WIDE / 2 + (WIDE / 2 - 5) * max(-1.0, min(1.0, value / reach if reach else 0.0))

    sign = "neg" if score < 0 else "pos"
    parts = [line(WIDE / 2, 1, WIDE / 2, HIGH - 1, "rule")]
    label = number(score, sign=True)
    if (ends := _known(student)) is not None:
        low, high = map(place, ends)
        bar = {"x": low, "y": HIGH / 2 - 1.5, "width": max(high - low, 1.0), "height": 3}
        parts.append(tag("rect", **bar, class_=sign, fill_opacity="0.45"))
        label += f", 95 % from {number(ends[0], scale=reach)} to {number(ends[1], scale=reach)}"
    if (ends := _known(bootstrap)) is not None:
        low, high = map(place, ends)
        parts.append(line(low, HIGH / 2, high, HIGH / 2, "bracket"))
        parts += [line(x, HIGH / 2 - CAP, x, HIGH / 2 + CAP, "bracket") for x in (low, high)]
        label += f", bootstrap 95 % from {number(ends[0], scale=reach)} to {number(ends[1], scale=reach)}"
    parts.append(tag("circle", cx=place(score), cy=HIGH / 2, r=3.6, class_=f"dot {sign}"))
    return figure("interval", WIDE, HIGH, label, *parts)


def _known(ends: Ends) -> tuple[float, float] | None:
    low, high = ends
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return None
    return low, high
