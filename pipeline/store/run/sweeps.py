"""Methods of a run that differ in one parameter alone, and what they found side by side.

Knows the parameters in a manifest, the table of faithfulness and sets of kept edges. Reads no file and draws nothing.
"""

from collections.abc import Mapping
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool

if TYPE_CHECKING:
    from pandas import DataFrame, Series


Methods = Mapping[str, Mapping[str, Any]]  # the manifest's: `parameters` by id
Kept = Mapping[str, Bool[np.ndarray, " edge"]]

_SWEPT = "threshold"
# What values are measured in: they compare within these and not across.
_ALONE = ("task", "metric", "ablation")
_ROUNDING = 1e-6
# The first is said anyway, the second changes how fast edges are found and not which.
_SAME = ("name", "width")


def thresholds(methods: Methods) -> dict[str, float]:
    """The threshold of every method that has one."""
    found = {id_: entry["parameters"].get(_SWEPT) for id_, entry in methods.items()}
    return {id_: float(value) for id_, value in found.items() if value is not None}


def families(methods: Methods) -> dict[str, str]:
    """What a method's points are called in a plot. Methods that differ in their threshold alone share a family: their
    name and what tells it from other families of that name, `acdc early_first`. Any other family is one method's id.

    The metric is not part of it: values of different metrics never share a plot.
    """
    family = {id_: id_ for id_ in methods}
    by_name: dict[str, dict[str, dict[str, str]]] = {}
    for id_ in thresholds(methods):
        parameters = methods[id_]["parameters"]
        by_name.setdefault(parameters["name"], {})[id_] = _words(parameters)
    for name, members in by_name.items():
        if len(members) < 2:
            continue
        every = dict.fromkeys(key for words in members.values() for key in words)
        keys = [key for key in every if len({words.get(key) for words in members.values()}) > 1]
        for id_, words in members.items():
            family[id_] = " ".join([name, *(words[key] for key in keys if words.get(key))])
    return family


def order_groups(methods: Methods) -> list[dict[str, str]]:
    """The order by id, for every two or more methods that differ in the order of their tests alone."""
    groups: dict[tuple[Any, ...], dict[str, str]] = {}
    for id_, threshold in thresholds(methods).items():
        parameters = methods[id_]["parameters"]
        words = _words(parameters)
        if order := words.pop("order", None):
            key = (parameters["name"], parameters.get("metric"), threshold, *sorted(words.items()))
            groups.setdefault(key, {})[id_] = order
    return [group for group in groups.values() if len(group) > 1]


def _words(parameters: Mapping[str, Any]) -> dict[str, str]:
    """Each parameter that tells families apart, as words; the seed is part of the order, where one is used."""
    left_out = {*_SAME, _SWEPT, "metric", "order_seed"}
    words = {key: _word(key, value) for key, value in parameters.items() if key not in left_out}
    if words.get("order") == "random":
        words["order"] = f"random-{parameters.get('order_seed', 0)}"
    return words


def _word(key: str, value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else f"{key} {value}"


def pareto(evaluated: "DataFrame", methods: Methods) -> "DataFrame":
    """Every evaluated circuit with what it took and what it does: the rows of `Run.faithfulness()` with the method's
    `family`, `threshold` and `ablation`, by task, metric, family and number of edges. Each of several rules has its
    own families.

    `best`: nearer to the whole model (faithfulness 1) than no edge at all, and than every circuit of fewer edges for
    the same task, metric and ablation; of as many edges, none is nearer.
    """
    of_method = evaluated["method"].map
    frame = evaluated.assign(
        family=of_method(families(methods)),
        threshold=of_method(thresholds(methods)).astype(float),
        ablation=of_method({id_: entry["parameters"].get("ablation") for id_, entry in methods.items()}),
    )
    if "rank" in frame:  # a curve per rule
        frame["family"] = frame["family"].str.cat(frame["rank"], sep=" ").fillna(frame["family"])
    frame = frame.assign(best=_front(frame))
    columns = ["task", "method", "family", "threshold", "edge_fraction", "n_edges", "n_edges_pruned"]
    columns += ["metric", "ablation", "metric_full", "metric_empty", "metric_circuit", "faithfulness", "best"]
    columns += [name for name in ("rank",) if name in frame]
    tasks = {task: place for place, task in enumerate(dict.fromkeys(frame["task"]))}
    by = ["task", "metric", "ablation", "family", "n_edges", "threshold"]
    order = frame.assign(task=frame["task"].map(tasks)).sort_values(by, kind="stable").index
    return frame.loc[order, columns].reset_index(drop=True)


def _front(frame: "DataFrame") -> "Series":
    """Whether a row is on the Pareto front of its task, metric and ablation."""
    import pandas as pd

    best = np.zeros(len(frame), dtype=bool)
    away = np.abs(1 - frame["faithfulness"].to_numpy(dtype=float, na_value=np.nan))
    n_edges = frame["n_edges"].to_numpy()
    compared: dict[tuple[Any, ...], list[int]] = {}
    measured = zip(
        *(frame[name].astype(object).where(frame[name].notna(), None) for name in _ALONE), strict=True
    )
    for place, group in enumerate(measured):
        if not np.isnan(away[place]):
            compared.setdefault(group, []).append(place)
    for rows in compared.values():
        sizes, size = np.unique(n_edges[rows], return_inverse=True)
        nearest = np.full(len(sizes), np.inf)
        np.minimum.at(nearest, size, away[rows])
        before = np.minimum.accumulate([1.0, *nearest[:-1]])  # with fewer edges, or none
        best[rows] = (away[rows] < before[size] - _ROUNDING) & (away[rows] == nearest[size])
    return pd.Series(best, index=frame.index)


def overlap(kept: Kept) -> list[dict[str, Any]]:
    """For every pair: method other n_edges other_edges common either jaccard. Two empty circuits are the same: 1."""
    rows = []
    for (method, mask), (other, others) in combinations(kept.items(), 2):
        common, either = int((mask & others).sum()), int((mask | others).sum())
        sizes = {"n_edges": int(mask.sum()), "other_edges": int(others.sum())}
        jaccard = common / either if either else 1.0
        rows.append(
            {
                "method": method,
                "other": other,
                **sizes,
                "common": common,
                "either": either,
                "jaccard": jaccard,
            }
        )
    return rows


def order_effects(kept: Kept, methods: Methods) -> list[dict[str, Any]]:
    """What the order of tests changes, a row per group of kept circuits that differ in it alone: threshold, metric,
    methods, edges by order, those common to all and those in any, and the share that is not common."""
    rows = []
    for group in order_groups(methods):
        there = {order: kept[id_] for id_, order in group.items() if id_ in kept}
        if len(there) < 2:
            continue
        common, either = (
            int(f(list(there.values())).sum()) for f in (np.logical_and.reduce, np.logical_or.reduce)
        )
        parameters = methods[next(iter(group))]["parameters"]
        rows.append(
            {
                "threshold": float(parameters[_SWEPT]),
                "metric": parameters.get("metric"),
                "methods": [id_ for id_ in group if id_ in kept],
                "n_edges": {order: int(mask.sum()) for order, mask in there.items()},
                "common": common,
                "either": either,
                "changed": 1 - common / either if either else 0.0,
            }
        )
    return rows
