"""What happens in a run, in words, a line each; for whoever calls `discover` and for the command line.

Knows events. Does not know terminals (`flows.progress` draws a bar on one).
"""

import sys
import time
from collections.abc import Callable

from pipeline.core.text import printable
from pipeline.schedule.session import Event, OnEvent

STEPS = {
    "aggregate": "merging the shards",
    "evaluate": "evaluating circuits",
    "report": "writing the report",
}
SECONDS = 2.0  # between two lines about items that went well


def _to_stderr(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def telling(
    say: Callable[[str], object] = _to_stderr, clock: Callable[[], float] = time.monotonic
) -> OnEvent:
    """A listener that says a line to stderr: of items at most one every two seconds, of all else each."""
    told = -SECONDS

    def on_event(event: Event) -> None:
        nonlocal told
        often = event.kind in ("item", "circuits") and event.done < event.total
        if often and clock() - told < SECONDS:
            return
        told = clock()
        say(line(event))

    return on_event


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
