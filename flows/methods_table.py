"""`python -m flows.methods_table`: which method and which rule of selection find a circuit that holds, as one table.

    python -m flows.methods_table [NAME...] [--runs FOLDER]     all behaviours that the model has, or those named

Knows which runs are made, two for each behaviour, and where the table lies. They are run directories like any other:
the same command again computes what is missing, and rows of behaviours that are not named stay. Does not know how a
circuit is selected or evaluated (`methods_rows` reads what was found). Times are CPU seconds of this process, which
does everything itself.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any

from flows import behaviours
from flows.methods_rows import KEPT, RESAMPLES, rows_of
from flows.real import FOLDER, NOTE
from flows.reference import rounded, write_table
from pipeline import discover
from pipeline.config import RunConfig
from pipeline.core.errors import CircuitsError
from pipeline.evaluation.cpr_cmd import NEAR
from pipeline.schedule.session import Event
from pipeline.store.run.opened import Run

TABLE = behaviours.TABLE.with_name("methods.md")
FACTS = TABLE.with_suffix(".json")
RULES = ("absolute", "signed", "greedy", "positive_half")
PROMPTS, HELD_OUT, SEED = 32, 32, 1
SEARCHES = 5  # of resamples, each as long as that of the prompts
PARTS: dict[str, list[dict[str, Any]]] = {
    "": [{"name": "eap"}, {"name": "eap_ig", "steps": 5}],
    # by bounds: the same edges, sooner
    "-acdc": [
        {"name": "acdc", "threshold": 0.1, "scores": "bounded", "as": "acdc-0.1", "resamples": SEARCHES}
    ],
}
WORDS = (
    f"Written by `python -m flows.methods_table`. {NOTE[0].upper()}{NOTE[1:]}. {PROMPTS} prompts find the circuits, "
    f"{HELD_OUT} that share no deciding word with them judge; ten sizes from .1 % to all "
    "edges. The circuit of a row is the smallest whose faithfulness is within .15 of 1 where it was found, or, in "
    "brackets, the one nearest to 1. CPR and CMD are areas under the curve of the row's own rule (MIB takes CPR of "
    f"signed and CMD of absolute). Jaccard: of circuits of that size from {RESAMPLES} resamples of the prompts "
    f"({SEARCHES}, each searched, for acdc), beside that of random sets. acdc decides by KL divergence and is judged "
    "by it, behind the stroke by the logit difference. CPU s: finding, on one thread, the searches of resamples not "
    "counted; the last column: evaluating all circuits of that run's methods and rules on both sets."
)
COLUMNS = [*("behaviour", "method", "rule", "CPR", "CMD", "size", "faithfulness", "held out, 95 %", "gap")]
COLUMNS += ["Jaccard (null)", "CPU s", "evaluating"]
SUMMARY = [*("method", "rule", "behaviours", "found", "of these held out too", "size, median")]
SUMMARY += ["away from 1 held out, median", "CPR, mean", "CMD, mean", "Jaccard, mean"]


def config_of(name: str, part: str, runs: str) -> RunConfig:
    """The config of one of a behaviour's runs."""
    task = (behaviours.CANDIDATES | behaviours.MORE).get(name, {"name": name})
    return RunConfig.from_mapping(
        {
            "name": f"methods-{name}{part}",
            "model": {"name": str(FOLDER)},
            "tasks": [{**task, "count": PROMPTS, "held_out": HELD_OUT, "seed": SEED, "as": name}],
            "methods": PARTS[part],
            "shards": {"prompts": PROMPTS},
            "store": {"prompt_scores": not part},
            "evaluate": {"rank": list(RULES)},
            "cluster": {"batch_size": PROMPTS},
            "output": runs,
        }
    )


def costs_of(config: RunConfig) -> Path:
    """Where the CPU seconds of a run's items and evaluations are written down, beside it."""
    return Path(config.output) / f"{config.name}.cpu.json"


def computed(config: RunConfig) -> Run:
    """The run, made or gone on with."""
    path = costs_of(config)
    spent: dict[str, float] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    last = time.process_time()

    def on_event(event: Event) -> None:
        nonlocal last
        now = time.process_time()
        of, _, _ = event.text.partition(":")  # `ioi/eap/0`, or of a search `ioi/acdc-0.1: decided logits`
        if event.kind in ("item", "circuits", "step") and "/" in of:
            spent[of] = spent.get(of, 0.0) + now - last
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(spent, indent=1), encoding="utf-8")
            print(f"  {event.text}, {now - last:.0f} CPU s", flush=True)
        last = now

    return discover(config, local=True, on_event=on_event)


def known() -> list[str]:
    """The behaviours that the model has, as `make behaviours` found."""
    facts = json.loads(behaviours.FACTS.read_text(encoding="utf-8"))
    return [name for name, one in facts.items() if one["verdict"] == "has"]


def summary(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A line per method and rule: how often a circuit was found, and the middle of its numbers."""
    lines = [
        f"| {' | '.join(SUMMARY)} |",
        "|---" * len(SUMMARY) + "|",
    ]
    for method, rule in dict.fromkeys((row["method"], row["rule"]) for row in rows):
        some = [row for row in rows if (row["method"], row["rule"]) == (method, rule)]
        away = [abs(1 - row["held_out"]) for row in some if row["held_out"] is not None]
        cells = [
            f"{sum(row['near'] for row in some)}",
            f"{sum(row['near'] and abs(1 - row['held_out']) <= NEAR for row in some)}",
            _percent(_of(statistics.median, [row["share"] for row in some if row["near"]])),
            _number(_of(statistics.median, away)),
            *(
                _number(_of(statistics.fmean, [row[key] for row in some if row[key] is not None]))
                for key in ("cpr", "cmd", "jaccard")
            ),
        ]
        lines.append(f"| {method} | {rule} | {len(some)} | {' | '.join(cells)} |")
    return lines


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The table as Markdown."""
    lines = [
        "# Which method and rule find a circuit that holds",
        "",
        *wrap(WORDS, 115),
        "",
        *summary(rows),
        "",
    ]
    if missing := lacking(rows):
        lines += [f"Not computed yet: {', '.join(missing)}.", ""]
    lines += [
        f"| {' | '.join(COLUMNS)} |",
        "|---" * len(COLUMNS) + "|",
    ]
    for row in rows:
        size = f"{row['share']:.2%}".replace("%", " %")
        held_out = (
            f"{_number(row['held_out'])} [{_number(row['held_out_low'])}, {_number(row['held_out_high'])}]"
        )
        jaccard = "–" if row["jaccard"] is None else f"{row['jaccard']:.2f} ({row['null']:.3f})"
        found = _number(row["faithfulness"])
        if row["logit_diff"]:
            found, held_out = (
                f"{word} / {_number(value)}"
                for word, value in zip((found, held_out), row["logit_diff"], strict=True)
            )
        cells = [
            *(row[key] for key in ("behaviour", "method", "rule")),
            *map(_number, (row["cpr"], row["cmd"])),
            size if row["near"] else f"({size})",
            *(found, held_out, _number(row["gap"]), jaccard),
            *(_number(row[key], 0) for key in ("cpu_seconds", "evaluation_cpu_seconds")),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _of(middle: Any, values: list[float]) -> float | None:
    return middle(values) if values else None


def _number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value * 100:.2g} %"


def lacking(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What has no row yet: behaviours, or acdc alone of them."""
    there = {(row["behaviour"], row["rule"] == KEPT) for row in rows}
    none = [name for name in known() if (name, False) not in there]
    return none + [f"acdc on {name}" for name in known() if name not in none and (name, True) not in there]


def write(rows: Sequence[dict[str, Any]]) -> None:
    """Writes the facts and the table of them, behaviours in the order of how well the model has them."""
    place = {name: index for index, name in enumerate(known())}
    in_order = sorted(rows, key=lambda row: place.get(row["behaviour"], len(place)))
    facts = rounded(in_order)
    write_table(TABLE, facts, table(facts))


def main() -> int:
    """Makes the runs and writes the table anew after each behaviour; 0 where all could be made."""
    parser = argparse.ArgumentParser(prog="python -m flows.methods_table")
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--runs", default="results", metavar="FOLDER")
    asked = parser.parse_args()
    rows: list[dict[str, Any]] = []
    if FACTS.is_file():
        rows = json.loads(FACTS.read_text(encoding="utf-8"))
    try:
        for name in asked.names or known():
            rows = [row for row in rows if row["behaviour"] != name]
            for part in PARTS:
                print(f"{name}{part}", flush=True)
                config = config_of(name, part, asked.runs)
                run = computed(config)
                rows += rows_of(run, name, json.loads(costs_of(config).read_text(encoding="utf-8")))
                write(rows)
    except CircuitsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"table    {TABLE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
