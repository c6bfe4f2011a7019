import io

import pytest
from rich.console import Console

from flows.progress import bar_on, shown
from pipeline.schedule.session import Event

SAID = "induction/acdc-0.01 and 4 more thresholds: decided a11.h11<q>, 12,345 edges kept so far"


@pytest.mark.parametrize("room", [60, 80, 120])
def test_a_long_message_leaves_bar_and_count_in_one_line(room):
    console = Console(file=io.StringIO(), width=room, force_terminal=True, color_system=None)
    progress = bar_on(console)
    bar = progress.add_task("starting", total=12345)
    progress.update(bar, completed=6789, description=SAID)
    console.print(progress.get_renderable())
    (line,) = console.file.getvalue().splitlines()
    assert len(line) <= room
    assert " 6789/12345 " in line
    assert "━━━━━" in line
    assert SAID[: room - 50] in line


def event(kind: str, text: str) -> Event:
    return Event(kind=kind, text=text, done=1, total=3, seconds=0.5)


def test_quiet_tells_of_failures_alone():
    stream = io.StringIO()
    with shown(stream, quiet=True) as on_event:
        for kind in ("begin", "item", "step", "note", "retry"):
            on_event(event(kind, kind))
        on_event(event("failed", "ioi/eap/1: no numbers"))
    assert stream.getvalue() == "FAILED: ioi/eap/1: no numbers\n"
