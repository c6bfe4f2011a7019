"""The verb that sets circuits beside each other: compare.

Knows options and words. Does not know how alike two circuits are.
"""

import json
from typing import Annotated, Any

import typer

app = typer.Typer()


@app.command()
def compare(
    run: Annotated[str, typer.Argument(help="run directory, or its s3:// address", show_default=False)],
    other: Annotated[
        str | None, typer.Argument(help="another run; without it, a run with itself", show_default=False)
    ] = None,
    task: Annotated[str | None, typer.Option("--task", help="this task alone")] = None,
    method: Annotated[str | None, typer.Option("--method", help="this method alone")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="data as JSON on stdout")] = False,
) -> None:
    """Compare the scores and circuits of methods, tasks or runs: rank correlation and overlap beside chance."""
    from flows.pareto import check_names
    from pipeline.report.compared import compared
    from pipeline.store.run.opened import open_run

    runs = [open_run(path) for path in (run, other) if path is not None]
    for one in runs:
        check_names(one, task, method)
    rows = compared(*runs, task=task, method=method)
    if as_json:
        print(json.dumps(rows, indent=1))
    else:
        _print(rows)


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
        sets = [("largest by size", one) for one in row["overlaps"]]
        for name, one in [*sets, ("kept", row["kept"])] if row["kept"] else sets:
            sizes = (one["n_edges"], one["other_edges"], one["common"])
            table.add_row(name, *map(count, sizes), *(number(one[key]) for key in ("jaccard", "null", "p")))
        show(table)
