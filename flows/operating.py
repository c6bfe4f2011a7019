"""Verbs for a run under way or gone wrong, from its directory alone: logs, cancel, reproduce.

Knows options and words. Holds no logic.
"""

import json
import sys
import traceback
from contextlib import suppress
from typing import Annotated, Any

import typer

from pipeline.core.text import printable

app = typer.Typer()

RunFolder = Annotated[str, typer.Argument(help="run directory, or its s3:// address", show_default=False)]


@app.command()
def logs(
    folder: RunFolder,
    tail: Annotated[int, typer.Option("--tail", min=1, help="so many of the last lines")] = 200,
    as_json: Annotated[bool, typer.Option("--json", help="data as JSON on stdout")] = False,
) -> None:
    """Print what a run has said of itself, also while it is at work elsewhere."""
    from flows.writing import say
    from pipeline.store.run.log import read_log
    from pipeline.store.run.opened import open_run

    lines = read_log(open_run(folder).path)[-tail:]
    if as_json:
        print(json.dumps(lines, indent=1))
        return
    for line in lines:
        say(_said(line))


@app.command()
def cancel(folder: RunFolder) -> None:
    """Stop the process at work in a run, on whichever machine; what is done stays."""
    from flows.writing import say
    from pipeline.schedule.control import cancel as stop
    from pipeline.store.run.opened import open_run

    say(stop(open_run(folder).path))


@app.command()
def reproduce(
    folder: RunFolder,
    item: Annotated[
        str, typer.Argument(help="its name, as `circuits failures` prints it", show_default=False)
    ],
    set_: Annotated[
        list[str], typer.Option("--set", metavar="KEY=VALUE", help="override a field of the config")
    ] = [],  # noqa: B006
) -> None:
    """Compute one item again in this process, with its full traceback; writes nothing."""
    from flows.writing import say
    from pipeline.core.errors import ConfigError, RunDirectoryError
    from pipeline.reproduce import reproduce as compute

    try:
        said = compute(folder, item, set_)
    except (ConfigError, RunDirectoryError):
        raise
    except Exception:  # noqa: BLE001 - whatever it is, it is what was asked for
        for line in traceback.format_exc().splitlines():
            print(printable(line), file=sys.stderr)
        print(
            f"{item} fails; nothing was written. Once mended: circuits resume --failed {folder}",
            file=sys.stderr,
        )
        raise typer.Exit(1) from None
    say(said)


def _said(line: dict[str, Any]) -> str:
    from pipeline.schedule.session import Event
    from pipeline.schedule.telling import line as words

    when = str(line.get("time", ""))[:19].replace("T", " ")
    if "total" in line:
        fields = {key: value for key, value in line.items() if key in Event.__dataclass_fields__}
        with suppress(TypeError, ValueError):  # no line of ours: shown as it is
            return f"{when}  {words(Event(**fields))}"
    who = f" (process {line['pid']} on {line.get('host')})" if "pid" in line else ""
    return f"{when}  {line.get('kind', '')}: {line.get('text', '')}{who}"
