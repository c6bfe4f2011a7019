"""Whose circuits do whose prompts: what `across` and `clusters` have found, as matrices.

Knows rows of `Run.evaluations()`. Does not know how a matrix is drawn or printed.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.evaluation.clusters import ON
from pipeline.report.svg import number

ACROSS, CLUSTERS = "across", "clusters"
SHOWN_SO = (ACROSS, CLUSTERS)  # evaluations whose rows are shown like this, and not one by one

_IN_SHARES = (
    "cpr_cmd",
    "completeness",
    "worst_set",
    "class_sets",
)  # those whose numbers are shares of the behaviour


def scale_of(row: Mapping[str, Any]) -> float:
    """On what scale a number is rounding: 1 for shares of the behaviour, 0 where a small one may be meant, as a p."""
    return 1.0 if row["evaluation"] in _IN_SHARES else 0.0


def matrices(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A matrix of faithfulness per method that has one: evaluation, task (None: of all), method, circuits, prompts, and
    cells, a row per circuit, of value, low and high."""
    found: dict[tuple[str, str | None, str], dict[tuple[str, str], dict[str, Any]]] = {}
    for row in rows:
        quantity = row["quantity"]
        if row["evaluation"] not in SHOWN_SO or not quantity.startswith("faithfulness"):
            continue
        circuit, on, prompts = (row["circuit"] or "").partition(ON)
        across = row["evaluation"] == ACROSS
        key = (row["evaluation"], None if across else row["task"], row["method"])
        of = (row["circuit"], row["task"]) if across else (circuit, prompts)
        if across or on:
            end = quantity.removeprefix("faithfulness").lstrip("_") or "value"
            found.setdefault(key, {}).setdefault(of, {})[end] = row["value"]
    return [_matrix(*key, cells) for key, cells in found.items()]


def _matrix(
    evaluation: str, task: str | None, method: str, cells: Mapping[tuple[str, str], dict[str, Any]]
) -> dict[str, Any]:
    circuits, prompts = (list(dict.fromkeys(names)) for names in zip(*cells, strict=True))
    return {
        "evaluation": evaluation,
        "task": task,
        "method": method,
        "circuits": circuits,
        "prompts": prompts,
        "cells": [[cells.get((circuit, on), {}) for on in prompts] for circuit in circuits],
    }


def kinds(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Per task and method that `clusters` has looked at, how many kinds of prompts there are, and in `words` why."""
    found: dict[tuple[str, str], dict[tuple[str, str], Any]] = {}
    for row in rows:
        if row["evaluation"] == CLUSTERS:
            of = found.setdefault((row["task"], row["method"]), {})
            of[row["circuit"] or "", row["quantity"]] = row["value"]
    return [
        {
            "task": task,
            "method": method,
            "clusters": numbers.get(("", "clusters")),
            "words": _words(method, numbers),
        }
        for (task, method), numbers in found.items()
    ]


def _words(method: str, numbers: Mapping[tuple[str, str], Any]) -> str:
    n = numbers.get(("", "clusters"))
    if numbers.get(("", "separation")) is None:
        return f"{method}: whether its prompts are of one kind is not known without the scores of each of eight or more"
    apart = f"{number(numbers['', 'separation'])} standard deviations, p {number(numbers['', 'p'])} if of one kind"
    if n is None:
        return f"{method}: one kind of prompts or two, too near to tell; the best two halves are apart by {apart}"
    if n == 1:
        return f"{method}: one kind of prompts; the best two halves are apart by {apart}"
    sizes = [value for (_, quantity), value in numbers.items() if quantity == "prompts"]
    return (
        f"{method}: {n:.0f} kinds, of {', '.join(f'{size:,.0f}' for size in sizes)} prompts; apart by {apart}"
    )
