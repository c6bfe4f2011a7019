"""What a finished run says of each method and rule: the rows of `flows.methods_table`.

Knows how a run and its values of prompts are read. Does not know which runs there are, nor how a row is shown.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from pipeline import RunConfig, evaluate, load_model
from pipeline.core.items import EVALUATIONS, Item
from pipeline.evaluation.cpr_cmd import NEAR, areas
from pipeline.evaluation.ratio import Ratio, faithfulness_over
from pipeline.evaluation.resamples import Overlap, bootstrap, overlap_of
from pipeline.store.run.evaluations import EMPTY, FAITHFULNESS, FULL, path_of, read_values
from pipeline.store.run.opened import Run

RESAMPLES, SEED = 20, 1
KEPT = "kept"


def rows_of(run: Run, name: str, spent: Mapping[str, float]) -> Iterator[dict[str, Any]]:
    """A row per method and rule of the task of that name, whose prompts held out are the task beside it. `spent` is CPU
    seconds by what was computed."""
    frame = run.faithfulness()
    for method in frame["method"].unique():
        decides = bool(frame.loc[frame["method"] == method, "edge_fraction"].isna().any())
        for rule in (KEPT,) if decides else run.ranks:
            yield _row(run, name, method, rule, frame) | {
                "cpu_seconds": _spent(spent, method),
                "evaluation_cpu_seconds": _spent(spent, f"evaluation={FAITHFULNESS}"),
            }


def _row(run: Run, name: str, method: str, rule: str, frame: pd.DataFrame) -> dict[str, Any]:
    mine = frame[(frame["method"] == method) & (frame["task"] == name)]
    if rule != KEPT and "rank" in mine:
        mine = mine[mine["rank"] == rule]
    row, is_near = chosen(mine, run.graph.n_edges)
    share = None if rule == KEPT else float(row["edge_fraction"])
    curve = list(zip(mine["edge_fraction"], mine["faithfulness"].astype(float), strict=True))
    cpr, cmd = (None, None) if rule == KEPT else areas(sorted(curve))
    found, held_out = (_ratio(run, task, method, rule, share) for task in (name, f"{name}-held-out"))
    overlap = _overlap(run, name, method, rule, int(row["n_edges"]))
    gap = None if found.value is None or held_out.value is None else held_out.value - found.value
    return {
        "behaviour": name,
        "method": method,
        "rule": rule,
        "metric": str(row["metric"]),
        "prompts": len(run.prompts(name)),
        "cpr": cpr,
        "cmd": cmd,
        "near": is_near,
        "share": int(row["n_edges"]) / run.graph.n_edges,
        "n_edges": int(row["n_edges"]),
        "faithfulness": found.value,
        "held_out": held_out.value,
        "held_out_low": held_out.low,
        "held_out_high": held_out.high,
        "gap": gap,
        "jaccard": None if overlap is None else overlap.mean,
        "null": None if overlap is None else overlap.null,
        "logit_diff": _by_logit_diff(run, name, method) if rule == KEPT else None,
    }


def chosen(mine: pd.DataFrame, n_edges: int) -> tuple[dict[str, Any], bool]:
    """Of circuits by one rule the smallest whose faithfulness is within 0.15 of 1, else the nearest to it, and which of
    both it is; the whole graph is neither."""
    parts = mine[mine["n_edges"] < n_edges].sort_values("n_edges", kind="stable")
    away = (parts["faithfulness"].astype(float) - 1).abs()
    near = parts[away <= NEAR]
    row = near.iloc[0] if len(near) else parts.loc[away.idxmin()]
    return {str(key): value for key, value in row.items()}, bool(len(near))


def _ratio(run: Run, task: str, method: str, rule: str, share: float | None) -> Ratio:
    """The faithfulness of one circuit on a task's prompts, with its interval."""
    rank = None if rule in (KEPT, run.ranks[0]) else rule
    shards = sorted(
        item.shard for item in run.directory.items if item.kind == "baseline" and item.task == task
    )
    every = [read_values(path_of(run.path, Item(EVALUATIONS, task, FAITHFULNESS, s), rank)) for s in shards]
    label = KEPT if share is None else f"{share!r}"
    full, empty, one = (
        np.concatenate([values[method, FAITHFULNESS, circuit] for values in every])
        for circuit in (FULL, EMPTY, label)
    )
    return faithfulness_over(full, empty, one)


def _overlap(run: Run, task: str, method: str, rule: str, size: int) -> Overlap | None:
    """How alike circuits of resampled prompts are; None where neither scores of single prompts are kept, nor what a
    method that decides keeps of resamples."""
    if rule == KEPT:
        again = RunConfig.from_mapping(run.config).resamples_of(method)
        kept = [run.circuit(one, task).mask for one in again]
        return overlap_of(np.stack(kept), SEED) if len(kept) > 1 else None
    rows = run.rows_of_prompts(method, task)
    if rows is None:
        return None
    return overlap_of(bootstrap(run.graph, rows, size, rule, RESAMPLES, SEED), SEED)


def _by_logit_diff(run: Run, name: str, method: str) -> list[float]:
    """The faithfulness of what a method keeps by the logit difference, where it was found and on prompts held out."""
    model = load_model(run.config["model"]["name"])
    circuit = run.circuit(method, name)
    batches = [model.batch(run.prompts(task)) for task in (name, f"{name}-held-out")]
    found = [evaluate(circuit, model, [batch], metric="logit_diff") for batch in batches]
    return [float(one["faithfulness"].item()) for one in found]


def _spent(spent: Mapping[str, float], word: str) -> float | None:
    found = [seconds for of, seconds in spent.items() if word in of.split("/")]
    return sum(found) if found else None
