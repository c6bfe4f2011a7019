"""How many prompts are enough: how alike circuits of disjoint sets of prompts are, by the number of prompts.

Knows what the evaluation `learning_curve` has found of the methods of one task. Does not know how a chart is drawn.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from pipeline.evaluation.base import CIRCUIT
from pipeline.evaluation.learning_curve import PREFIX
from pipeline.report.chart import LOOKS, Axes, Series, curves, grid, legend, span_of
from pipeline.report.evaluated import chart_figure
from pipeline.report.svg import number

NAME = "learning_curve"


def learning_svg(rows: Sequence[Mapping[str, Any]]) -> Markup | None:
    """A curve per method of these rows of `Run.evaluations()`; None where nothing is known. What is enough stands
    below."""
    mine = [row for row in rows if row["evaluation"] == NAME]
    by_method: dict[str, dict[tuple[str, str], Any]] = {}
    for row in mine:
        by_method.setdefault(row["method"], {})[row["circuit"] or "", row["quantity"]] = row["value"]
    points = {method: _points(found) for method, found in by_method.items()}
    known = {method: some for method, some in points.items() if some}
    if not known:
        return None
    numbers = [n for some in known.values() for n in some]
    axes = Axes(span_of(numbers), (-0.05, 1.05), (0.0, 1.0), None)
    series, notes = [], []
    for look, (method, some) in enumerate(known.items()):
        found = by_method[method]
        drawn = tuple(axes.point(n, mean, _words(method, n, found)) for n, mean in some.items())
        series.append(Series(method, None, look % LOOKS, len(drawn) > 1, drawn))
        notes.append(_note(method, found, max(some)))
    keys, keys_end = legend(series)
    bars = [found[CIRCUIT, "bar"] for found in by_method.values()]
    return chart_figure(
        "learning",
        "Overlap of circuits of disjoint prompts against the number of prompts, for " + ", ".join(known),
        axes.bottom,
        keys_end,
        notes,
        grid(axes, "Jaccard overlap", (0, *bars), along="prompts of a set"),
        *curves(series),
        *keys,
    )


def _points(found: Mapping[tuple[str, str], Any]) -> dict[int, float]:
    """The mean overlap by the number of prompts."""
    means = {
        int(circuit.removeprefix(PREFIX)): value
        for (circuit, quantity), value in found.items()
        if quantity == "jaccard" and value is not None
    }
    return dict(sorted(means.items()))


def _words(method: str, n: int, found: Mapping[tuple[str, str], Any]) -> str:
    mean, low, high = (found[f"{PREFIX}{n}", f"jaccard{end}"] for end in ("", "_low", "_high"))
    return (
        f"{method}: {n:,} prompts; overlap {number(mean)}, 95 % of pairs from {number(low)} to {number(high)}"
    )


def _note(method: str, found: Mapping[tuple[str, str], Any], most: int) -> str:
    """From how many prompts on circuits agree, in words; beyond what was seen it is a guess, and said to be one."""
    enough, bar, null = (found[CIRCUIT, name] for name in ("enough", "bar", "null"))
    chance = f"random sets of its size have {number(null)}"
    if enough is None:
        return f"{method}: how many prompts an overlap of {bar:g} needs is not known from these; {chance}"
    how = "" if enough <= most else ", by the line through these points"
    return f"{method}: an overlap of {bar:g} needs {enough:,.0f} prompts{how}; {chance}"
