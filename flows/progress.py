"""What a person sees while a run is under way: a bar on a terminal, one line per item otherwise.

Knows events of `pipeline.run`. Everything goes to stderr, so that stdout holds data alone.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from pipeline.core.text import printable
from pipeline.session import Event, OnEvent

STEPS = {
    "aggregate": "merging the shards",
    "evaluate": "evaluating circuits",
    "report": "writing the report",
}


@contextmanager
def shown(stream: TextIO | None = None) -> Iterator[OnEvent]:
    """A listener for events, with a live bar if the stream is a terminal."""
    stream = stream or sys.stderr
    if not stream.isatty():
        yield lambda event: _print(event, stream)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
    )

    console = Console(file=stream)
    columns = (
        SpinnerColumn(),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("starting", total=None)

        def on_event(event: Event) -> None:
            if event.kind in ("retry", "failed", "note"):
                progress.console.print(line(event), markup=False, highlight=False)
            what = STEPS.get(event.text, event.text) if event.kind != "begin" else "waiting for workers"
            progress.update(bar, completed=event.done, total=event.total, description=printable(what))

        yield on_event


def line(event: Event) -> str:
    """An event in one line, whatever a message in it holds."""
    return printable(_words(event))


def _words(event: Event) -> str:
    width = len(str(event.total))
    match event.kind:
        case "begin":
            return f"{event.total - event.done} of {event.total} items to do in {event.text}"
        case "item":
            return f"[{event.done:{width}}/{event.total}] {event.text} {event.seconds:.2f} s"
        case "circuits":
            return f"evaluated {event.text} {event.seconds:.2f} s"
        case "retry":
            return f"again: {event.text}"
        case "failed":
            return f"FAILED: {event.text}"
        case "step":
            return STEPS.get(event.text, event.text)
        case _:
            return event.text


def _print(event: Event, stream: TextIO) -> None:
    print(line(event), file=stream, flush=True)
