"""What a person sees while a run is planned: how many prompts were read, where that takes more than a moment.

Knows what planning tells. Everything goes to stderr; on a terminal it is one line that goes again.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from pipeline.core.text import printable
from pipeline.schedule.listeners import heard_by

SOON, OFTEN, SELDOM = (
    1.0,
    0.2,
    10.0,
)  # seconds before the first line; between lines on a terminal, and elsewhere


@contextmanager
def reading(
    stream: TextIO | None = None, *, quiet: bool = False, clock: Callable[[], float] = time.monotonic
) -> Iterator[None]:
    """Shows how far the planning in this block is; a quiet one shows nothing."""
    stream = stream or sys.stderr
    live = stream.isatty()
    due = clock() + (SOON if live else SELDOM)
    width = 0

    def on_progress(task: str, prompts: int, share: float) -> None:
        nonlocal due, width
        now = clock()
        if quiet or now < due:
            return
        due = now + (OFTEN if live else SELDOM)
        text = printable(f"reading {task}: {prompts:,} prompts, {share:.0%}")
        stream.write(f"\r{text:{width}}" if live else f"{text}\n")
        stream.flush()
        width = max(width, len(text))

    try:
        with heard_by(on_progress):
            yield
    finally:
        if width and live:
            stream.write(f"\r{'':{width}}\r")
            stream.flush()
