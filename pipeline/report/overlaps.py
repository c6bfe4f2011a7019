"""How alike the kept circuits of a run are, as plain data and in words.

Knows how to read a run. Does not know how anything is drawn or printed.
"""

from collections.abc import Mapping
from typing import Any

from pipeline.report.svg import percent
from pipeline.store.run import sweeps
from pipeline.store.run.opened import Run


def overlaps(run: Run) -> list[dict[str, Any]]:
    """Per task with two kept circuits or more: `pairs` of circuits, and `orders`, what the order of tests changes,
    with `words`. Circuits stand by metric, family and threshold."""
    methods = run.manifest["methods"]
    family, threshold = sweeps.families(methods), sweeps.thresholds(methods)

    def place(method: str) -> tuple[str, str, float]:
        return str(methods[method]["parameters"].get("metric")), family[method], threshold[method]

    found = []
    for task in run.tasks:
        circuits = run.kept_circuits(task)
        if len(circuits) < 2:
            continue
        kept = {method: circuits[method].mask for method in sorted(circuits, key=place)}
        effects = sweeps.order_effects(kept, methods)
        several = len({effect["metric"] for effect in effects}) > 1
        orders = [{**effect, "words": _words(effect, several)} for effect in effects]
        found.append({"task": task, "pairs": sweeps.overlap(kept), "orders": orders})
    return found


def _words(effect: Mapping[str, Any], several: bool) -> str:
    sizes = ", ".join(f"{order} {n_edges:,}" for order, n_edges in effect["n_edges"].items())
    at = f"{effect['metric']}, threshold" if several else "threshold"
    common = "in common" if len(effect["n_edges"]) == 2 else "common to all"
    return (
        f"{at} {effect['threshold']:g}: order changes {percent(effect['changed'])} of the edges: {sizes}, "
        f"{common} {effect['common']:,} of {effect['either']:,}"
    )
