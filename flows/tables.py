"""What the verbs say: plain facts for `--json`, and the same as tables for people.

Knows how numbers are written. Does not know how they were computed; loads without torch, Ray and Prefect.
"""

from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from pipeline.ablations import ABLATIONS
from pipeline.core.errors import CircuitsError, RunDirectoryError
from pipeline.methods import METHODS
from pipeline.metrics import METRICS
from pipeline.models.families import FAMILIES
from pipeline.models.toy import FOLDERS
from pipeline.planning import Plan
from pipeline.run import Session
from pipeline.store.results import Run, open_run
from pipeline.store.run_dir import RunDirectory
from pipeline.tasks import TASKS

Facts = dict[str, Any]


# --- plan --------------------------------------------------------------------------------------------------


def plan_facts(plan: Plan, run_dir: Path | None) -> Facts:
    """The plan with the number of items that are done already."""
    path = run_dir or plan.path
    done = 0
    if (path / "manifest.json").is_file():
        directory = RunDirectory.open(path)
        mine = [item for item in plan.items if directory.item_keys.get(item) == plan.item_key(item)]
        done = len(directory.done(mine, rename=False))
    return {
        **plan.to_dict(),
        "path": str(path),
        "done": done,
        "graph": plan.graph.describe(),
        "rows": plan.table(),
    }


def print_plan(facts: Facts) -> None:
    """Counts per task and method, and where the run lies."""
    table = _table(
        "task", "method", "#items", "#prompts", "#edges", "#forward", "#backward", "#evaluations", "#rows"
    )
    for row in facts["rows"]:
        table.add_row(row["task"], row["method"], *_work(row, row["prompts"], row["edges"]))
    totals = facts["totals"]
    table.add_section()
    table.add_row("total", "", *_work({**totals, "items": len(facts["items"])}, "", ""))
    _print(table)
    _say(f"graph: {facts['graph']}")
    _say(f"memory of a worker: about {_bytes(facts['memory_bytes'])}")
    _say(f"run: {facts['path']}, {facts['done']} of {len(facts['items'])} items done")
    _say("passes are counted in prompts; evaluations are runs of a patched part of the model")


def _work(row: Facts, prompts: Any, edges: Any) -> list[str]:
    most = "≤ " if row["evaluations_at_most"] else ""
    counts = [row["items"], prompts, edges, row["forward_passes"], row["backward_passes"]]
    return [*map(_count, counts), most + _count(row["evaluations"]), _count(row["rows"])]


# --- run, status, failures ---------------------------------------------------------------------------------


def run_facts(session: Session, already: bool) -> Facts:
    """How a run has ended."""
    return {
        "run": session.path.name,
        "path": str(session.path),
        "complete": session.is_complete and session.stopped is None,
        "items": len(session.plan.items),
        "done": len(session.done),
        "failed": len(session.failed),
        "missing": [item.name for item in session.missing],
        "problems": [*session.problems, *([session.stopped] if session.stopped else [])],
        "already": already,
        "report": str(session.path / "report.html"),
    }


def print_run(facts: Facts) -> None:
    """How the run has ended, and what to type next."""
    already = ", nothing to do" if facts["already"] else ""
    if facts["complete"]:
        _say(f"complete{already}: {facts['items']} items in {facts['path']}")
        _say(f"report: {facts['report']}")
        _say(f"next: circuits show {facts['path']}")
        return
    missing = facts["missing"]
    _say(f"incomplete: {len(missing)} of {facts['items']} items are missing in {facts['path']}")
    for problem in facts["problems"]:
        _say(f"  {problem}")
    _say(f"next: circuits failures {facts['path']}" if missing else f"next: circuits resume {facts['path']}")


def print_status(facts: Facts) -> None:
    """Counts per task and method, and what to type next."""
    table = _table("task", "method", "#items", "#done", "#failed")
    for row in facts["rows"]:
        table.add_row(row["task"], row["method"], *map(_count, (row["items"], row["done"], row["failed"])))
    _print(table)
    state = "complete" if facts["complete"] else f"{facts['missing']} of {facts['items']} items missing"
    if not facts["complete"] and not facts["missing"]:
        state = "all items done, not evaluated yet"
    _say(f"{facts['path']}: {state}")
    if facts["running"]:
        _say(f"at work: {facts['running']}")
    elif not facts["complete"]:
        _say(f"next: circuits {'failures' if facts['failed'] else 'resume'} {facts['path']}")


def failure_facts(run: Run) -> Facts:
    """The records of items that are still missing, oldest first, and how many items are missing in all."""
    missing = {name for row in run.status()["rows"] for name in row["missing"]}
    records = [record for record in run.failures() if record["name"] in missing]
    return {"path": str(run.path), "missing": len(missing), "records": records}


def print_failures(facts: Facts) -> None:
    """A line per attempt, and what to type next."""
    for record in facts["records"]:
        place = f" on {record['host']} ({record['device']})" if record.get("device") else ""
        what = f"{record.get('error')}: {record.get('message')}"
        _say(f"{record['name']} attempt {record['attempt']}{place}: {what}")
        if record.get("final"):
            _say(f"  next: {record.get('next_step')}")
    if not facts["records"]:
        _say("no failures")
    if facts["missing"]:
        given_up = any(record.get("final") for record in facts["records"])  # each says what to type next
        following = "" if given_up else f"; next: circuits resume {facts['path']}"
        _say(f"{facts['missing']} items are missing{following}")


# --- show, export ------------------------------------------------------------------------------------------


def show_facts(run: Run, task: str | None, method: str | None, top: int) -> Facts:
    """The essentials of the run, or of one task or method."""
    from pipeline.report.essentials import essentials

    for name, known, what in ((task, run.tasks, "task"), (method, run.methods, "method")):
        if name is not None and name not in known:
            raise CircuitsError(f"no {what} {name!r} in this run; it has {', '.join(known)}")
    facts = essentials(run, top=top)
    for key in ("results", "faithfulness"):
        facts[key] = [
            row for row in facts[key] if task in (None, row["task"]) and method in (None, row["method"])
        ]
    return {**facts, "path": str(run.path)}


def print_show(facts: Facts) -> None:
    """Strongest edges per task and method, and how faithful circuits are."""
    model = facts["model"]
    _say(f"{facts['name']}: {model['name']} ({model['revision'][:12]}, {model['dtype']}), {facts['graph']}")
    _say(
        f"metric {facts['metric']}, ablation {facts['ablation']}, "
        + ("complete" if facts["complete"] else "INCOMPLETE")
    )
    for result in facts["results"]:
        _say("")
        _say(
            f"{result['task']} / {result['method']}: {result['metric']}, {result['ablation']}, "
            f"{result['n_prompts']} prompts in {result['n_shards']} shards"
        )
        what = "edge" if result["level"] == "edge" else "node"
        columns = (what, *(("span",) if what == "node" else ()))
        table = _table(*columns, "#score", "#95 % interval", "#same sign")
        for row in result["top"]:
            interval = f"{_number(row['ci_low'])} .. {_number(row['ci_high'])}"
            cells = [str(row[column] if row[column] is not None else "all") for column in columns]
            table.add_row(*cells, _number(row["score"]), interval, _share(row["sign_agreement"]))
        _print(table)
        if "circuit" in result:
            _say(result["circuit"]["words"])
    if facts["faithfulness"]:
        _say("")
        print_faithfulness(facts["faithfulness"])
    page = Path(facts["path"]) / "report.html"
    _say(f"report: {page}" if page.is_file() else f"next: circuits resume {facts['path']}")


def print_faithfulness(rows: list[Facts]) -> None:
    """A row per circuit."""
    table = _table(
        "task",
        "method",
        "#share",
        "#edges",
        "#without dangling",
        "metric",
        "#full",
        "#empty",
        "#circuit",
        "#faithfulness",
    )
    for row in rows:
        share = "kept" if row["edge_fraction"] is None else f"{row['edge_fraction']:.1%}"
        values = [
            _number(row[key]) for key in ("metric_full", "metric_empty", "metric_circuit", "faithfulness")
        ]
        sizes = [_count(row["n_edges"]), _count(row["n_edges_pruned"])]
        table.add_row(row["task"], row["method"], share, *sizes, row["metric"], *values)
    _print(table)


def print_export(facts: Facts) -> None:
    """The files, and what their reader has to know."""
    for path in facts["files"]:
        _say(path)
    for note in facts["notes"]:
        _say(f"note: {note}")


# --- list --------------------------------------------------------------------------------------------------


def known_names() -> Facts:
    """Everything that a config may name."""
    return {
        "methods": [
            {"name": cls.model_fields["name"].default, "scores": cls.level, "parameters": _parameters(cls)}
            for cls in METHODS
        ],
        "tasks": [
            {"name": cls.model_fields["name"].default, "parameters": _parameters(cls)} for cls in TASKS
        ],
        "metrics": [
            {
                "name": m.name,
                "better": "higher" if m.higher_is_better else "lower",
                "gradient": m.has_gradient,
            }
            for m in METRICS.values()
        ],
        "ablations": [{"name": a.name, "means": a.needs_statistics} for a in ABLATIONS.values()],
        "models": {
            "architectures": [name for family in FAMILIES for name in family.model_types],
            "bundled": list(FOLDERS),
        },
    }


def print_known_names(facts: Facts) -> None:
    """Methods and tasks with their parameters, and the other names."""
    for section in ("methods", "tasks"):
        table = _table(section, "parameters")
        for row in facts[section]:
            table.add_row(
                row["name"], ", ".join(f"{key}={value}" for key, value in row["parameters"].items())
            )
        _print(table)
    table = _table("metrics", "better", "gradient")
    for row in facts["metrics"]:
        table.add_row(row["name"], row["better"], "yes" if row["gradient"] else "no")
    _print(table)
    _say("ablations: " + ", ".join(row["name"] for row in facts["ablations"]))
    _say("architectures: " + ", ".join(facts["models"]["architectures"]))
    _say("bundled models: " + ", ".join(facts["models"]["bundled"]))


def runs_in(folder: Path) -> Facts:
    """The runs that lie in a folder."""
    if not folder.is_dir():
        raise RunDirectoryError(f"{folder}: no such folder; runs lie in the config's output folder")
    runs = []
    for path in sorted(folder.iterdir()):
        if not (path / "manifest.json").is_file():
            continue
        try:
            facts = open_run(path).status()
        except RunDirectoryError as error:
            runs.append({"run": path.name, "error": str(error)})
            continue
        runs.append({key: facts[key] for key in ("run", "items", "done", "failed", "complete", "running")})
    return {"folder": str(folder), "runs": runs}


def print_runs(facts: Facts) -> None:
    """A row per run."""
    table = _table("run", "#items", "#done", "#failed", "state")
    for row in facts["runs"]:
        if "error" in row:
            table.add_row(row["run"], "", "", "", "cannot be read")
            continue
        state = "complete" if row["complete"] else row["running"] or "incomplete"
        table.add_row(row["run"], *(_count(row[key]) for key in ("items", "done", "failed")), state)
    _print(table)


# --- writing -----------------------------------------------------------------------------------------------


def _parameters(cls: type[Any]) -> Facts:
    shared = ("name", "as_", "metric", "ablation", "attention")
    return {
        key: "..." if field.is_required() else field.default
        for key, field in cls.model_fields.items()
        if key not in shared
    }


def _table(*columns: str) -> Table:
    """A table with the columns; those marked # hold numbers."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(
            column.removeprefix("#"), justify="right" if column.startswith("#") else "left", no_wrap=True
        )
    return table


def _print(table: Table) -> None:
    """The whole table whatever the terminal's width: a cut number is worse than a broken line."""
    Console(highlight=False, markup=False, width=1000).print(table)


def _say(text: str) -> None:
    print(text)


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _bytes(value: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"
