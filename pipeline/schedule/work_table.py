"""The work of a plan as a table: a row per task and method, and what every evaluation of circuits adds.

Knows a plan and each method's cost. Does not know how a table is shown.
"""

from collections.abc import Collection
from dataclasses import asdict
from typing import Any

from pipeline.config.related import judges_of
from pipeline.core.results import EDGE_SCORES
from pipeline.evaluation.faithfulness import recorded_once
from pipeline.methods import Cost
from pipeline.methods.base import captures
from pipeline.schedule.plan import Plan, Work
from pipeline.store.run.evaluations import FAITHFULNESS


def work_table(plan: Plan) -> list[dict[str, Any]]:
    """What `circuits plan` prints: a row per task and method (or statistics, baseline) with counts."""
    return [
        _row(plan, task, method, work)
        for (task, method), work in sorted(plan.work.items(), key=lambda pair: _table_order(plan, pair[0]))
    ]


def evaluation(plan: Plan) -> dict[tuple[str, str], Cost]:
    """By task and evaluation, the work of running its circuits once all items are there, of every round where it
    searches; those that want none are left out. Methods that agree in ablation, and evaluations one after the other,
    share the recorded runs (the circuits of all edges and of none); equal circuits are run once."""
    methods = [method for method in plan.methods.values() if method.kind == EDGE_SCORES]
    config = plan.config
    asked_for = config.evaluate
    fractions, rules = asked_for.edge_fractions, len(asked_for.ranks)
    below = sum(fraction < 1 for fraction in fractions)
    judging = {task for source in config.discovering for task in judges_of(source, config.task_ids)}
    of_chosen = {one.name for one in asked_for.also if one.of_chosen}
    of_own = {one.name for one in asked_for.also if one.of_own}
    rounds = {one.name: one.rounds for one in asked_for.also}
    wanted = {
        FAITHFULNESS: [
            (1, 1) if method.decides else (len(fractions) * rules, below * rules) for method in methods
        ]
    }
    for one in asked_for.also:
        times = rules if one.by_rank and not one.of_chosen else 1
        each = len(config.discovering) if one.of_others else 1
        counts = [
            each * one.n_circuits(plan.graph, decides=method.decides) * (1 if method.decides else times)
            for method in methods
        ]
        wanted[one.name] = [(count, count) for count in counts]
    found: dict[tuple[str, str], Cost] = {}
    seen: dict[tuple[str, bool], set[str]] = {}
    for task, tokens in plan.tokens.items():
        for name, sizes in wanted.items():
            asked = [method for method, (n, _) in zip(methods, sizes, strict=True) if n]
            judges = task in judging or name not in of_chosen
            if not (asked and judges and (task in config.discovering or name not in of_own)):
                continue
            # a worker stays with a shard while it has evaluations, and those of a chosen circuit come after the others
            there = seen.setdefault((task, name in of_chosen), set())
            needed = {method.ablation or config.ablation for method in asked}
            missing = needed - there if _is_kept(plan, task, len(needed | there)) else needed
            there |= needed
            again = rounds.get(name, 1) - 1
            found[task, name] = Cost(
                forward_passes=(_recorded(missing) + again * _recorded(needed)) * len(tokens),
                evaluations=sum(n for _, n in sizes) * len(tokens),
                evaluations_at_most=True,  # circuits that are the same once nothing dangles are run once
                rows=sum(n for n, _ in sizes),
            )
    return found


def _recorded(ablations: Collection[str]) -> int:
    """The recorded runs of a prompt that circuits under these ablations need."""
    return sum(captures(ablation) for ablation in ablations)


def _is_kept(plan: Plan, task: str, ablations: int) -> bool:
    """Whether a worker keeps the recorded runs of a shard, under so many ablations, for its next evaluation."""
    tokens, width = plan.tokens[task], plan.graph.d_model
    longest = max(tokens.lengths, default=0)
    most = max((len(tokens.of_shard(shard)) for shard in range(tokens.n_shards)), default=0) * int(longest)
    return width is not None and recorded_once(plan.graph.n_senders, most, width, ablations)


def evaluation_table(plan: Plan) -> list[dict[str, Any]]:
    """The rows that evaluations add to the table: one per task and evaluation; none has items, their work is spread by
    shard."""
    return [
        _row(plan, task, name, Work(prompts=len(plan.tokens[task]), cost=cost))
        for (task, name), cost in evaluation(plan).items()
    ]


def _row(plan: Plan, task: str, method: str, work: Work) -> dict[str, Any]:
    return {
        "task": task,
        "method": method,
        "items": work.items,
        "prompts": work.prompts,
        "edges": plan.graph.n_edges,
        **asdict(work.cost),
        "prompt_score_bytes": work.prompt_score_bytes,
    }


def _table_order(plan: Plan, key: tuple[str, str]) -> tuple[int, int]:
    return list(plan.tokens).index(key[0]), ["filtered", "statistics", "baseline", *plan.methods].index(
        key[1]
    )
