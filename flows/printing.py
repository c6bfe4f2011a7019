"""What the verbs about a run say: plain facts for `--json`, and the same as tables for people.

Knows what is worth saying. Does not know how it was computed; loads without torch, Ray and Prefect.
"""

from itertools import groupby
from operator import itemgetter
from typing import Any

from flows.checked import planned_facts, print_planned
from flows.pareto import check_names, overlap_of, print_overlap
from flows.writing import count, number, say, share, show, size, table_of
from pipeline.core.items import RESERVED_IDS
from pipeline.core.machines import fits, reasons, this_machine
from pipeline.evaluation.verdict import EVALUATIONS as OF_A_VERDICT
from pipeline.report.matrices import SHOWN_SO, scale_of
from pipeline.schedule import Plan, evaluation_table, work_table
from pipeline.schedule.session import Session
from pipeline.schedule.until import first_shards
from pipeline.store.place.where import place
from pipeline.store.run.opened import Run
from pipeline.store.run.run_dir import RunDirectory

Facts = dict[str, Any]


# --- plan --------------------------------------------------------------------------------------------------


def plan_facts(plan: Plan, run_dir: str | None) -> Facts:
    """The plan with the number of items that are done already."""
    path = place(run_dir or plan.path)
    done = 0
    if (path / "manifest.json").is_file():
        directory = RunDirectory.open(path)
        mine = [item for item in plan.items if directory.item_keys.get(item) == plan.item_key(item)]
        done = len(directory.done(mine, rename=False, kept=plan.config.prompt_scores))
    facts, evaluation = plan.to_dict(), evaluation_table(plan)
    return {
        **facts,
        "totals": _sum([facts["totals"], *evaluation]),
        "path": str(path),
        "done": done,
        "workers": _workers(plan),
        "threads": plan.config.cluster.threads,
        "graph": plan.graph.describe(),
        "note": plan.note,
        "check": planned_facts(plan),
        "until": _begins(plan),
        "rows": work_table(plan),
        "evaluation": evaluation,
    }


def _begins(plan: Plan) -> str:
    """Of how many prompts a run with `until` begins; of another, nothing."""
    if plan.config.until is None:
        return ""
    tokens = {task: plan.tokens[task] for task in plan.config.discovering}
    counts = {task: one.of_shard(first_shards(plan, task) - 1).stop for task, one in tokens.items()}
    return ", ".join(f"{n:,} of {len(tokens[task]):,} prompts of {task}" for task, n in counts.items())


def _sum(parts: list[Facts]) -> Facts:
    """What is to do in all, with the evaluation; bounds add up to a bound."""
    first = parts[0]
    return {name: type(first[name])(sum(part[name] for part in parts)) for name in first}


def _workers(plan: Plan) -> str:
    """How many workers there will be; where that is left to the machine, why."""
    cluster, need = plan.config.cluster, plan.need
    each = f"{need} each"
    if cluster.workers != "auto":
        return f"{cluster.workers}, {each}"
    if cluster.address != "local":
        memory = size(need.memory_bytes)
        return f"auto: as many as have room at {cluster.address}, with {each} and {memory} of memory"
    here = this_machine()
    return f"auto: {fits(here, need)} here, {each} ({reasons(here, need)})"


def print_plan(facts: Facts) -> None:
    """Counts per task and method, and where the run lies."""
    table = table_of(
        "task", "method", "#items", "#prompts", "#edges", "#forward", "#backward", "#evals", "#rows"
    )
    for row in facts["rows"]:
        table.add_row(row["task"], row["method"], *_work(row, row["prompts"], row["edges"]))
    for row in facts["evaluation"]:
        table.add_row(row["task"], row["method"], *_work({**row, "items": ""}, row["prompts"], row["edges"]))
    table.add_section()
    table.add_row("total", "", *_work({**facts["totals"], "items": len(facts["items"])}, "", ""))
    show(table)
    if filtered := sorted({row["task"] for row in facts["rows"] if row["method"] == "filtered"}):
        say(
            f"filter: correct leaves out what the model gets wrong of {', '.join(filtered)}: all counts are the most"
        )
    if facts["until"]:
        say(f"until circuits are stable: all counts are the most; begins with {facts['until']}")
    print_planned(facts["check"])
    say(f"graph: {facts['graph']}")
    if facts["note"]:
        say(facts["note"])
    say(f"memory of a worker: about {size(facts['memory_bytes'])}")
    say(f"workers: {facts['workers']}")
    if facts["threads"] > 1:
        say("threads: so many workers of one thread each would do more, where memory holds them")
    if facts["search_bytes"]:
        task, total = max(facts["search_bytes"].items(), key=lambda pair: pair[1])
        say(
            f"searches of whole tasks: recorded runs of up to {size(total)} ({task}) over all workers; what "
            "cluster.memory_per_worker does not hold is recorded again for every question"
        )
    if kept := facts["prompt_scores"]:
        total = size(facts["prompt_score_bytes"])
        say(f"scores by prompt: of {', '.join(kept)}, {total} in {', '.join(sorted(set(kept.values())))}")
        if without := sorted({row["method"] for row in facts["rows"]} - {*kept, *RESERVED_IDS}):
            say(f"no scores by prompt: of {', '.join(without)}")
    say(f"run: {facts['path']}, {facts['done']} of {len(facts['items'])} items done")
    say("passes are counted in prompts; evals (evaluations) are runs of a patched part of the model")
    if len({row["method"] for row in facts["evaluation"]}) > 1:
        say(
            "evaluations of a shard share recorded runs; a worker that takes over another's shard records anew"
        )


def _work(row: Facts, prompts: Any, edges: Any) -> list[str]:
    most = "≤ " if row["evaluations_at_most"] else ""
    counts = [row["items"], prompts, edges, row["forward_passes"], row["backward_passes"]]
    return [*map(count, counts), most + count(row["evaluations"]), count(row["rows"])]


# --- run, status, failures ---------------------------------------------------------------------------------


def run_facts(session: Session, already: bool) -> Facts:
    """How a run has ended."""
    return {
        "run": session.path.name,
        "path": str(session.path),
        "complete": session.is_complete and session.stopped is None,
        "items": len(session.items),
        "done": len(session.done),
        "failed": len(session.failed),
        "missing": [item.name for item in session.missing],
        "not_evaluated": session.not_evaluated,
        "problems": session.problems,
        "already": already,
        "report": str(session.path / "report.html"),
    }


def print_run(facts: Facts) -> None:
    """How the run has ended, and what to type next."""
    already = ", nothing to do" if facts["already"] else ""
    if facts["complete"]:
        say(f"complete{already}: {facts['items']} items in {facts['path']}")
        say(f"report: {facts['report']}")
        say(f"next: circuits show {facts['path']}")
        return
    missing = facts["missing"]
    say(f"incomplete: {len(missing)} of {facts['items']} items are missing in {facts['path']}")
    for problem in facts["problems"]:
        say(f"  {problem}")
    failed = missing or facts["not_evaluated"]
    say(f"next: circuits {'failures' if failed else 'resume'} {facts['path']}")


def print_status(facts: Facts) -> None:
    """Counts per task and method, and what to type next."""
    table = table_of("task", "method", "#items", "#done", "#failed")
    for row in facts["rows"]:
        table.add_row(row["task"], row["method"], *map(count, (row["items"], row["done"], row["failed"])))
    show(table)
    state = "complete" if facts["complete"] else f"{facts['missing']} of {facts['items']} items missing"
    if not facts["complete"] and not facts["missing"]:
        lacks = len(facts["not_evaluated"])
        state = "all items done, " + (f"{lacks} evaluations failed" if lacks else "not evaluated yet")
    say(f"{facts['path']}: {state}")
    if (beside := facts["prompt_scores"])["files"]:
        say(f"scores by prompt: {beside['files']} files, {size(beside['bytes'])}")
    if facts["running"]:
        say(f"at work: {facts['running']}")
    elif not facts["complete"]:
        failed = facts["failed"] or facts["not_evaluated"]
        say(f"next: circuits {'failures' if failed else 'resume'} {facts['path']}")


def failure_facts(run: Run) -> Facts:
    """The records of items and evaluations that are still missing, oldest first, and how many are missing in all."""
    status = run.status()
    missing = {name for row in status["rows"] for name in row["missing"]} | {*status["not_evaluated"]}
    records = [record for record in run.failures() if record["name"] in missing]
    return {"path": str(run.path), "missing": len(missing), "records": records}


def print_failures(facts: Facts) -> None:
    """A line per attempt, and what to type next."""
    for record in facts["records"]:
        place = f" on {record['host']} ({record['device']})" if record.get("device") else ""
        what = f"{record.get('error')}: {record.get('message')}"
        say(f"{record['name']} attempt {record['attempt']}{place}: {what}")
        if record.get("final"):
            say(f"  next: {record.get('next_step')}")
    if not facts["records"]:
        say("no failures")
    if facts["missing"]:
        given_up = any(record.get("final") for record in facts["records"])  # each says what to type next
        following = "" if given_up else f"; next: circuits resume {facts['path']}"
        say(f"{facts['missing']} items are missing{following}")


# --- show, export ------------------------------------------------------------------------------------------


def show_facts(run: Run, task: str | None, method: str | None, top: int) -> Facts:
    """The essentials of the run, or of one task or method."""
    from pipeline.report.essentials import essentials

    check_names(run, task, method)
    facts = essentials(run, top=top)
    for key in ("results", "faithfulness", "evaluations", "verdicts", "kinds"):
        facts[key] = [
            row for row in facts[key] if task in (None, row["task"]) and method in (None, row["method"])
        ]
    facts["matrices"] = [
        one for one in facts["matrices"] if task in (None, one["task"]) and method in (None, one["method"])
    ]
    facts["overlap"] = overlap_of(facts["overlap"], task, method)
    return {**facts, "filtered": run.directory.filtered(), "path": str(run.path)}


def print_show(facts: Facts) -> None:
    """Strongest edges per task and method, and how faithful circuits are."""
    model = facts["model"]
    say(f"{facts['name']}: {model['name']} ({model['revision'][:12]}, {model['dtype']}), {facts['graph']}")
    if model["note"]:
        say(model["note"])
    say(
        f"metric {facts['metric']}, ablation {facts['ablation']}, "
        + ("complete" if facts["complete"] else "INCOMPLETE")
    )
    for words in facts["until"]:
        say(words)
    for task, found in facts["filtered"].items():
        say(
            f"{task}: {count(found['kept'])} of {count(found['of'])} prompts are kept, which the model gets right; the "
            "others are in the folder filtered, with the reason"
        )
    for result in facts["results"]:
        say("")
        say(
            f"{result['task']} / {result['method']}: {result['about']}"
            + (f", bootstrap of {count(result['bootstrap'])} samples" if result["bootstrap"] else "")
            + (f", PARTIAL: {count(len(result['missing']))} items missing" if result["missing"] else "")
        )
        columns = tuple(result["columns"])
        kinds = {"ci": "95 % interval", "boot": "bootstrap"}
        kinds = {key: words for key, words in kinds.items() if f"{key}_low" in result["known"]}
        shares = {"sign_agreement": "prompts of that sign", "kept_fraction": "kept in shards"}
        shares = {key: words for key, words in shares.items() if key in result["known"]}
        bounds = {"score_error": "off by at most"} if "score_error" in result["known"] else {}
        more = (*bounds.values(), *kinds.values(), *shares.values())
        table = table_of(*columns, "#score", *(f"#{words}" for words in more))
        largest = max((abs(row["score"]) for row in result["top"] if row["score"] is not None), default=0.0)
        for row in result["top"]:
            cells = [str(row[column]) for column in columns]
            ends = [
                f"{number(row[f'{key}_low'], largest)} .. {number(row[f'{key}_high'], largest)}"
                for key in kinds
            ]
            off = ("" if row[key] is None else number(row[key]) for key in bounds)
            table.add_row(*cells, number(row["score"]), *off, *ends, *(share(row[key]) for key in shares))
        show(table)
        if result["caveat"]:
            say(result["caveat"])
        if "circuit" in result:
            say(result["circuit"]["words"])
    if facts["faithfulness"]:
        say("")
        print_faithfulness(facts["faithfulness"])
    for card in facts["verdicts"]:
        print_verdict(card)
    for found in facts["kinds"]:
        say("")
        say(f"{found['task']}: {found['words']}")
    for matrix in facts["matrices"]:
        print_matrix(matrix)
    others = [row for row in facts["evaluations"] if row["evaluation"] not in (*OF_A_VERDICT, *SHOWN_SO)]
    if others:
        say("")
        columns = ("task", "method", *_rule(others), "evaluation", "circuit", "quantity")
        table = table_of(*columns, "#value")
        for row in others:
            words = (row[_KEYS.get(column, column)] or "" for column in columns)
            table.add_row(*words, number(row["value"], scale_of(row)))
        show(table)
    for name in facts["not_evaluated"]:
        say(f"not evaluated: {name}; see: circuits failures {facts['path']}")
    print_overlap(facts["overlap"])
    page = place(facts["path"]) / "report.html"
    say(f"report: {page}" if page.is_file() else f"next: circuits resume {facts['path']}")


def print_verdict(card: Facts) -> None:
    """The questions that make a circuit one, with what is known of each."""
    say("")
    size = "" if card["n_edges"] is None else f" of {card['n_edges']:,.0f} edges"
    rule = f" by {card['rank']}, the best of its rules" if card["rank"] else ""
    say(f"{card['method']} on {card['task']}, the circuit{size}{rule}, judged by {card['prompts']}:")
    table = table_of("question", "answer", "#value", "95 % interval", "yes if")
    for row in card["judgements"]:
        ends = f"{number(row['low'], 1)} to {number(row['high'], 1)}" if row["low"] is not None else ""
        table.add_row(row["question"], row["answer"], number(row["value"], 1), ends, row["bar"])
    show(table)


def print_matrix(matrix: Facts) -> None:
    """Faithfulness of every circuit on every kind of prompts; the page has the intervals."""
    of = f" on {matrix['task']}" if matrix["task"] else ""
    say("")
    say(f"{matrix['method']}{of}, faithfulness of the circuit of a row on the prompts of a column:")
    table = table_of("circuit of", *(f"#{name}" for name in matrix["prompts"]))
    for circuit, row in zip(matrix["circuits"], matrix["cells"], strict=True):
        table.add_row(circuit, *(number(cell.get("value"), 1) for cell in row))
    show(table)


def print_faithfulness(rows: list[Facts]) -> None:
    """A table per task and metric, a row per circuit; above it what the metric is with all edges, and with none."""
    rule = _rule(rows)
    alike = ("task", "metric", "metric_full", "metric_empty")
    for (task, metric, full, empty), some in groupby(rows, itemgetter(*alike)):
        scale = max(abs(full), abs(empty))
        say(f"{task}: {metric} is {number(full, scale)} with all edges, {number(empty, scale)} with none")
        columns = ("#share", "#edges", "#without dangling", f"#{metric}", "#faithfulness")
        table = table_of("method", *rule, *columns)
        for row in some:
            share = "kept" if row["edge_fraction"] is None else f"{row['edge_fraction']:.1%}"
            sizes = [count(row["n_edges"]), count(row["n_edges_pruned"])]
            by = [row["rank"] or "" for _ in rule]
            values = [number(row["metric_circuit"], scale), number(row["faithfulness"], 1)]
            table.add_row(row["method"], *by, share, *sizes, *values)
        show(table)


_KEYS = {"rule": "rank"}  # where a column is called otherwise than what it shows


def _rule(rows: list[Facts]) -> tuple[str, ...]:
    """The column of the rule, where several are compared."""
    return ("rule",) if any(row.get("rank") for row in rows) else ()


def print_export(facts: Facts) -> None:
    """The files, and what their reader has to know."""
    for path in facts["files"]:
        say(path)
    for note in facts["notes"]:
        say(f"note: {note}")
