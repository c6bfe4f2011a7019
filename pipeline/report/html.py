"""One offline page per run: facts, circuits, curves, tables. No script, nothing loaded from anywhere.

Knows what goes where. Does not know the numbers (`essentials`) nor how a figure is drawn (`figures`).
"""

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from pipeline.core.circuit import Circuit
from pipeline.evaluation.verdict import EVALUATIONS as OF_A_VERDICT
from pipeline.report.circuit_figure import circuit_svg, strongest_part
from pipeline.report.essentials import by_edge, essentials, faithfulness
from pipeline.report.faithfulness_figure import faithfulness_svg
from pipeline.report.interval_figure import interval_svg
from pipeline.report.learning_figure import NAME as DRAWN
from pipeline.report.learning_figure import learning_svg
from pipeline.report.matrices import SHOWN_SO, scale_of
from pipeline.report.matrix_figure import matrix_svg
from pipeline.report.overlap_figure import overlap_svg
from pipeline.report.panels import panel_of, with_score
from pipeline.report.pareto_figure import pareto_svg, sweeps_of
from pipeline.report.svg import number, percent
from pipeline.store.place.atomic import write_atomic
from pipeline.store.place.seal import sealed_text
from pipeline.store.place.where import Place, place
from pipeline.store.run.opened import Run
from pipeline.store.run.sweeps import pareto


def write_report(run: Run, path: str | Place) -> Place:
    """Writes the page of a run to `path` and returns the path. Works on a run with missing items too."""
    path = place(path)
    write_atomic(path, sealed_text(f"{render(run).rstrip()}\n", "<!-- {} -->"))
    return path


def render(run: Run) -> str:
    """The page as HTML. Its content security policy admits its own style sheet and nothing else."""
    evaluated, figures = faithfulness(run), dict[tuple[str, str], _Figure]()

    def draw(task: str, method: str, frame: pd.DataFrame, circuit: Circuit | None) -> None:
        figures[task, method] = _figure(run, method, frame, circuit)

    facts = essentials(run, curve=evaluated, seen=draw)
    curve = pareto(evaluated, run.manifest["methods"])
    sections = [
        _section(run, facts, task["task"], curve[curve["task"] == task["task"]], figures)
        for task in facts["tasks"]
    ]
    style = _style(max((section["most_boxes"] for section in sections), default=0))
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    sheet = Markup(style)  # noqa: S704 - our own files, and a quote escaped would not match the hash
    across = [(one["method"], matrix_svg(one)) for one in facts["matrices"] if one["task"] is None]
    return _template().render(
        run=facts, sections=sections, across=across, style=sheet, style_hash=f"sha256-{digest}"
    )


@cache
def _template() -> Template:
    """The page without its contents, compiled once."""
    environment = Environment(
        loader=PackageLoader("pipeline", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": number,
        "share": lambda value: "–" if value is None else percent(value),
        "interval": _interval,
        "scale_of": scale_of,
        "whisker": lambda row, reach: interval_svg(row["score"], _ends(row, "ci"), _ends(row, "boot"), reach),
        "quoted": lambda pieces: ", ".join(f"“{p}”" if isinstance(p, str) else str(p) for p in pieces),
    }
    return environment.get_template("template.html")


@dataclass(frozen=True)
class _Figure:
    """What is drawn of a method's scores on a task; `left_out` says what is not."""

    drawn: Markup
    left_out: str | None = None
    boxes: int = 0


def _figure(run: Run, method: str, frame: pd.DataFrame, circuit: Circuit | None) -> _Figure:
    type_ = run.type_of(method)
    if (draw := panel_of(type_).figure) is not None:
        return _Figure(draw(with_score(frame, type_)))
    assert circuit is not None
    part = strongest_part(circuit, by_edge(frame, "score", run.graph))
    drawn = circuit_svg(part if part.n_edges else circuit, frame)
    return _Figure(drawn, _left_out(part.n_edges, circuit.pruned.n_edges), drawn.count('class="box '))


def _section(
    run: Run,
    facts: Mapping[str, Any],
    task: str,
    curve: pd.DataFrame,
    figures: Mapping[tuple[str, str], _Figure],
) -> dict[str, Any]:
    members = curve.groupby("family")["method"].agg(set)
    swept = {
        method for family in members if len(family) > 1 for method in family
    }  # folded: there may be many
    results, most = [], 0
    for result in facts["results"]:
        if result["task"] != task:
            continue
        reach = max((_reach(row) for row in result["top"]), default=1.0)
        figure = figures[task, result["method"]]
        most = max(most, figure.boxes)
        is_swept = result["method"] in swept
        results.append(
            dict(result, reach=reach, figure=figure.drawn, left_out=figure.left_out, is_swept=is_swept)
        )
    sweeps = sweeps_of(curve)
    whole = len(sweeps) == 1 and len(sweeps[0][2]) == len(curve)  # the chart of all would show the same again
    return {
        "task": task,
        "results": results,
        "faithfulness": faithfulness_svg(curve) if len(curve) and not whole else None,
        "sweeps": [(metric, ablation, pareto_svg(rows)) for metric, ablation, rows in sweeps],
        "held_out_of": run.manifest["identity"]["tasks"][task].get("held_out_of"),
        "verdicts": [card for card in facts["verdicts"] if card["task"] == task],
        "evaluations": [
            row
            for row in facts["evaluations"]
            if row["task"] == task and row["evaluation"] not in (*OF_A_VERDICT, *SHOWN_SO, DRAWN)
        ],
        "kinds": [found["words"] for found in facts["kinds"] if found["task"] == task],
        "matrices": [(one["method"], matrix_svg(one)) for one in facts["matrices"] if one["task"] == task],
        "learning": learning_svg([row for row in facts["evaluations"] if row["task"] == task]),
        "overlap": next((_overlap(found) for found in facts["overlap"] if found["task"] == task), None),
        "most_boxes": most,
    }


def _overlap(found: Mapping[str, Any]) -> dict[str, Any]:
    """The figure of all pairs, and what the order of tests changes, in words."""
    words = [effect["words"] for effect in found["orders"]]
    return {"figure": overlap_svg(found["pairs"]), "words": [f"{w[0].upper()}{w[1:]}." for w in words]}


def _left_out(drawn: int, whole: int) -> str | None:
    if drawn == whole:
        return None
    others = f"the other {whole - drawn:,} of the circuit are left out"
    return f"Drawn are the strongest {drawn} edges that lead from input to logits; {others}."


def _reach(row: Mapping[str, Any]) -> float:
    sizes = (row["score"], *_ends(row, "ci"), *_ends(row, "boot"))
    return max(abs(size) for size in sizes if size is not None)


def _interval(row: Mapping[str, Any], name: str, reach: float) -> str:
    ends = _ends(row, name)
    return "–" if None in ends else " to ".join(number(end, sign=True, scale=reach) for end in ends)


def _ends(row: Mapping[str, Any], name: str) -> tuple[float | None, float | None]:
    """Both ends of Student's interval (`ci`) or of that of the bootstrap (`boot`)."""
    return row[f"{name}_low"], row[f"{name}_high"]


def _style(boxes: int) -> str:
    """All style of the page. Hovering a node of a circuit fades the edges that are not its own."""
    fade = "".join(
        f"svg.circuit:has(.b{i}:hover) .edges path:not(.n{i}){{opacity:.06}}\n" for i in range(boxes)
    )
    return "\n".join([*_sheets(), fade])


@cache
def _sheets() -> tuple[str, ...]:
    own = files("pipeline.report")
    return tuple(own.joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "figures.css"))
