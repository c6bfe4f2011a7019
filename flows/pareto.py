"""What circuits cost and do, and how alike they are: plain facts for `--json`, and tables for people.

Knows what is worth saying. Does not know how it was computed; loads without torch, Ray and Prefect.
"""

from itertools import groupby
from operator import itemgetter
from typing import Any

from flows.writing import count, number, say, share, show, table_of
from pipeline.core.errors import CircuitsError
from pipeline.store.run.opened import Run

Facts = dict[str, Any]


def pareto_facts(run: Run, task: str | None, method: str | None) -> Facts:
    """What every evaluated circuit took and does, and how alike the kept ones are; of one task or method if named."""
    from pipeline.report.essentials import plain
    from pipeline.report.overlaps import overlaps

    check_names(run, task, method)
    frame = run.pareto()
    chosen = (frame["task"] == (task or frame["task"])) & (frame["method"] == (method or frame["method"]))
    overlap = overlap_of(overlaps(run), task, method)
    return {"path": str(run.path), "pareto": plain(frame[chosen]), "overlap": overlap}


def print_pareto(facts: Facts) -> None:
    """A table per task and metric, a row per circuit, those on the Pareto front marked, and how alike the kept ones
    are."""
    rule = ("rule",) if any(row.get("rank") for row in facts["pareto"]) else ()
    for (task, metric, _), some in groupby(facts["pareto"], itemgetter("task", "metric", "ablation")):
        say(f"{task}: {metric}")
        columns = ("#threshold", "#share", "#edges", f"#{metric}", "#faithfulness", "best")
        table = table_of("method", *rule, *columns)
        for row in some:
            part = "kept" if row["edge_fraction"] is None else f"{row['edge_fraction']:.1%}"
            sizes = [number(row["threshold"]), part, count(row["n_edges"])]
            measured = [number(row["metric_circuit"], _scale(row)), number(row["faithfulness"], 1)]
            by = [row["rank"] or "" for _ in rule]
            table.add_row(row["method"], *by, *sizes, *measured, "*" if row["best"] else "")
        show(table)
    say(
        "* on the Pareto front: of fewer edges, no circuit of that task and metric is as near to the whole model"
    )
    print_overlap(facts["overlap"])


def _scale(row: Facts) -> float:
    """How large the metric is, with all edges or with none."""
    return max(abs(row["metric_full"]), abs(row["metric_empty"]))


def print_overlap(overlap: list[Facts]) -> None:
    """Per task a row per kept circuit: its edges, and the share that it has in common with each one before."""
    for one in overlap:
        pairs = {(pair["method"], pair["other"]): pair for pair in one["pairs"]}
        sizes = {pair["method"]: pair["n_edges"] for pair in one["pairs"]}
        sizes |= {pair["other"]: pair["other_edges"] for pair in one["pairs"]}
        names = list(sizes)
        say("")
        say(f"{one['task']}: edges in common, of those in either circuit")
        table = table_of("##", "method", "#edges", *(f"#{i + 1}" for i in range(len(names) - 1)))
        for i, name in enumerate(names):
            found = [pairs.get((other, name)) for other in names[:-1]]
            shares = [share(pair["jaccard"]) if pair else "" for pair in found]
            table.add_row(str(i + 1), name, count(sizes[name]), *shares)
        show(table)
        for effect in one["orders"]:
            say(effect["words"])


def overlap_of(overlap: list[Facts], task: str | None, method: str | None) -> list[Facts]:
    """The pairs of a task, those with the method if one is named."""
    found = []
    for one in overlap:
        pairs = [pair for pair in one["pairs"] if method in (None, pair["method"], pair["other"])]
        orders = [effect for effect in one["orders"] if method is None or method in effect["methods"]]
        if pairs and task in (None, one["task"]):
            found.append({**one, "pairs": pairs, "orders": orders})
    return found


def check_names(run: Run, task: str | None, method: str | None) -> None:
    """Raises CircuitsError for a task or method that the run lacks."""
    for name, known, what in ((task, run.tasks, "task"), (method, run.methods, "method")):
        if name is not None and name not in known:
            raise CircuitsError(f"no {what} {name!r} in this run; it has {', '.join(known)}")
