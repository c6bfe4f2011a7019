"""What a person sees while a run is under way: a bar on a terminal, one line per item otherwise.

Knows events of `pipeline.schedule.conduct`. Everything goes to stderr, so that stdout holds data alone.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from pipeline.core.text import printable
from pipeline.schedule.session import Event, OnEvent
from pipeline.schedule.telling import STEPS, line

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

BAR = 10  # letters of a bar at least


@contextmanager
def shown(stream: TextIO | None = None, *, quiet: bool = False) -> Iterator[OnEvent]:
    """A listener for events, with a live bar if the stream is a terminal; a quiet one tells of failures alone."""
    stream = stream or sys.stderr
    if quiet:
        yield lambda event: _print(event, stream) if event.kind == "failed" else None
        return
    if not stream.isatty():
        yield lambda event: _print(event, stream)
        return
    from rich.console import Console

    with bar_on(Console(file=stream)) as progress:
        bar = progress.add_task("starting", total=None)

        def on_event(event: Event) -> None:
            if event.kind in ("retry", "failed", "note"):
                progress.console.print(line(event), markup=False, highlight=False)
            what = STEPS.get(event.text, event.text) if event.kind != "begin" else "waiting for workers"
            progress.update(bar, completed=event.done, total=event.total, description=printable(what))

        yield on_event


def bar_on(console: "Console") -> "Progress":
    """A bar with count and time in one line of the console; what is said beside them gets the room that is left."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
    )
    from rich.table import Column

    def whole() -> Column:
        return Column(no_wrap=True)

    columns = (
        SpinnerColumn(table_column=whole()),
        BarColumn(bar_width=20, table_column=Column(no_wrap=True, min_width=BAR)),
        MofNCompleteColumn(table_column=whole()),
        TimeElapsedColumn(table_column=whole()),
        TextColumn(
            "{task.description}",
            markup=False,
            table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"),
        ),
    )
    return Progress(*columns, console=console, transient=True, expand=True)


def _print(event: Event, stream: TextIO) -> None:
    print(line(event), file=stream, flush=True)
