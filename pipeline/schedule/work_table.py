"""The work of a plan as a table: a row per task and method, and what evaluating the circuits adds.

Knows a plan and each method's cost. Does not know how a table is shown.
"""

from dataclasses import asdict
from typing import Any

from pipeline.core.results import EDGE_SCORES
from pipeline.methods import Cost
from pipeline.methods.base import captures
from pipeline.schedule.plan import Plan


def work_table(plan: Plan) -> list[dict[str, Any]]:
    """What `circuits plan` prints: a row per task and method (or statistics, baseline) with counts."""
    return [
        {
            "task": task,
            "method": method,
            "items": work.items,
            "prompts": work.prompts,
            "edges": plan.graph.n_edges,
            **asdict(work.cost),
            "prompt_score_bytes": work.prompt_score_bytes,
        }
        for (task, method), work in sorted(plan.work.items(), key=lambda pair: _table_order(plan, pair[0]))
    ]


def evaluation(plan: Plan) -> dict[str, Cost]:
    """By task, the work of evaluating the circuits of its methods once all items are there. Methods that agree in
    metric and ablation share the recorded runs (the circuits of all edges and of none) and what equal circuits cost."""
    groups: set[tuple[str, str]] = set()
    n_circuits = n_run = 0
    for method in plan.methods.values():
        if method.kind == EDGE_SCORES:
            groups.add((method.metric or plan.config.metric, method.ablation or plan.config.ablation))
            fractions = (0.0,) if method.decides else plan.config.evaluate.edge_fractions
            n_circuits += len(fractions)
            n_run += sum(fraction < 1 for fraction in fractions)
    recorded = sum(captures(ablation) for _, ablation in groups)
    return {
        task: Cost(
            forward_passes=recorded * len(tokens),
            evaluations=n_run * len(tokens),
            evaluations_at_most=True,  # circuits that are the same once nothing dangles are run once
            rows=n_circuits,
        )
        for task, tokens in plan.tokens.items()
        if groups
    }


def evaluation_table(plan: Plan) -> list[dict[str, Any]]:
    """The rows that evaluation adds to the table: one per task; it has no items, its work is spread by shard."""
    return [
        {
            "task": task,
            "method": "faithfulness",
            "items": 0,
            "prompts": len(plan.tokens[task]),
            "edges": plan.graph.n_edges,
            **asdict(cost),
            "prompt_score_bytes": 0,
        }
        for task, cost in evaluation(plan).items()
    ]


def _table_order(plan: Plan, key: tuple[str, str]) -> tuple[int, int]:
    return list(plan.tokens).index(key[0]), ["statistics", "baseline", *plan.methods].index(key[1])
