"""The verbs that look at circuits twice: beside each other (compare), and edge by edge (edges).

Knows options and words. Does not know how alike two circuits are, nor how sure an edge is.
"""

import json
import sys
from typing import Annotated, Any

import typer

app = typer.Typer()

_WORDS = {"absolute": "largest by size"}  # what a rule is called where its name alone says little


@app.command()
def compare(
    run: Annotated[str, typer.Argument(help="run directory, or its s3:// address", show_default=False)],
    other: Annotated[
        str | None, typer.Argument(help="another run; without it, a run with itself", show_default=False)
    ] = None,
    task: Annotated[str | None, typer.Option("--task", help="this task alone")] = None,
    method: Annotated[str | None, typer.Option("--method", help="this method alone")] = None,
    transfer: Annotated[
        bool, typer.Option("--transfer", help="run each one's circuits on the other's prompts and model")
    ] = False,
    local: Annotated[
        bool, typer.Option("--local", help="--transfer in this process: no Ray, no Prefect")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="data as JSON on stdout")] = False,
) -> None:
    """Compare the scores and circuits of methods, tasks or runs: rank correlation and overlap beside chance, and with
    --transfer how faithful each circuit is elsewhere."""
    from flows.pareto import check_names
    from pipeline.report.compared import compared
    from pipeline.store.run.opened import open_run

    runs = [open_run(path) for path in (run, other) if path is not None]
    for one in runs:
        check_names(one, task, method)
    rows = compared(*runs, task=task, method=method)
    moved = _transferred(runs, task, method, local) if transfer else None
    if as_json:
        print(json.dumps(rows if moved is None else {"compared": rows, "transferred": moved}, indent=1))
        return
    _print(rows)
    for elsewhere in moved or ():
        _print_transferred(elsewhere)


def _transferred(runs: list[Any], task: str | None, method: str | None, local: bool) -> list[dict[str, Any]]:
    """What each run's circuits do on the prompts of the other, or of itself where it is alone, by a run of its own."""
    from contextlib import closing

    from flows.computing import computed
    from flows.prompt_bar import reading
    from flows.stopping import stoppable
    from pipeline.core.errors import CircuitsError
    from pipeline.schedule import evaluation
    from pipeline.schedule.preparing import prepare
    from pipeline.schedule.transfer import transfer_config, transferred
    from pipeline.store.run.opened import open_run

    found = []
    for one, other in [(runs[0], runs[-1]), (runs[-1], runs[0])][: len(runs)]:
        with reading():
            session = prepare(transfer_config(one, other, task, method))
        with closing(session), stoppable():
            costs = evaluation(session.plan).values()
            passes, circuits = (
                sum(getattr(cost, key) for cost in costs) for key in ("forward_passes", "evaluations")
            )
            print(
                f"circuits of {one.path} on the prompts of {other.path}: at most {passes:,} forward passes and "
                f"{circuits:,} runs of circuits, in {session.path}, where it goes on if it is stopped",
                file=sys.stderr,
            )
            computed(session, local=local, quiet=False)
            path, complete = session.path, session.is_complete
        if not complete:
            raise CircuitsError(f"{path}: not all circuits were run; next: circuits failures {path}")
        rows = transferred(one, other, open_run(path))
        found.append({"of": str(one.path), "on": str(other.path), "run": str(path), "rows": rows})
    return found


def _print_transferred(found: dict[str, Any]) -> None:
    from flows.writing import count, number, say, show, table_of

    say("")
    say(f"circuits of {found['of']} on the prompts of {found['on']}, from {found['run']}:")
    table = table_of("circuit of", "method", "prompts of", "#share", "#edges", "#faithfulness", "#their own")
    for row in found["rows"]:
        share = "kept" if row["edge_fraction"] is None else f"{row['edge_fraction']:.1%}"
        cells = (share, count(row["n_edges"]), number(row["faithfulness"], 1), number(row["own"], 1))
        table.add_row(row["task"], row["method"], row["prompts"], *cells)
    show(table)


@app.command()
def edges(
    run: Annotated[str, typer.Argument(help="run directory, or its s3:// address", show_default=False)],
    task: Annotated[str | None, typer.Option("--task", help="the task, where there are several")] = None,
    method: Annotated[
        str | None, typer.Option("--method", help="the method, where there are several")
    ] = None,
    top: Annotated[
        int | None,
        typer.Option("--top", min=1, help="edges of the circuit; without it, the one that is shown"),
    ] = None,
    rows: Annotated[int, typer.Option("--rows", min=0, help="how many of the strongest edges; 0: all")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="data as JSON on stdout")] = False,
) -> None:
    """Say how sure each edge is: p, q (false discoveries), how often resamples of the prompts include it."""
    from pipeline.report.essentials import plain
    from pipeline.report.sure import sure_edges
    from pipeline.store.run.opened import open_run

    opened = open_run(run)
    method, task = opened.choose(method, task)
    found = sure_edges(opened, task, method, top=top)
    shown = plain(found.head(rows) if rows else found)
    if as_json:
        print(json.dumps(shown, indent=1))
    else:
        _print_edges(
            shown, f"{method} on {task}: {int(found['in_circuit'].sum()):,} edges in the circuit", found
        )


def _print_edges(rows: list[dict[str, Any]], words: str, found: Any) -> None:
    from flows.writing import number, say, share, show, table_of

    table = table_of("edge", "#score", "#p", "#q", "in", "#included", "certified")
    for row in rows:
        inside = "yes" if row["in_circuit"] else ""
        sure = {True: "in", False: "out"}.get(row["certified"], "")
        numbers = (number(row[name]) for name in ("score", "p", "q"))
        table.add_row(row["edge"], *numbers, inside, share(row["inclusion"]), sure)
    show(table)
    say(words)
    if found["q"].notna().any():
        say(f"{int((found['q'] <= 0.05).sum()):,} edges have q at most .05 (Benjamini and Hochberg)")
    if found["inclusion"].isna().all():
        say("included, certified: need store: {prompt_scores: true}, and a method that scores every prompt")


def _print(rows: list[dict[str, Any]]) -> None:
    from flows.writing import count, number, say, show, table_of

    if not rows:
        say("nothing to compare: one method on one task has scores of edges")
    for row in rows:
        say("")
        say(f"{row['method']} on {row['task']} beside {row['other_method']} on {row['other_task']}:")
        say(
            f"rank correlation {number(row['spearman'])}, of sizes {number(row['spearman_size'])}, over "
            f"{count(row['n_measured'])} edges"
        )
        table = table_of("circuit", "#edges", "#and", "#common", "#jaccard", "#by chance", "#p")
        sets = [(_WORDS.get(one["rank"], one["rank"]), one) for one in row["overlaps"]]
        for name, one in [*sets, ("kept", row["kept"])] if row["kept"] else sets:
            sizes = (one["n_edges"], one["other_edges"], one["common"])
            table.add_row(name, *map(count, sizes), *(number(one[key]) for key in ("jaccard", "null", "p")))
        show(table)
