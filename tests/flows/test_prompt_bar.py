"""What is seen of long planning: nothing of short, a line that goes again on a terminal, few lines elsewhere."""

import io

import pytest

from flows.prompt_bar import reading
from pipeline.schedule.listeners import tell


class Screen(io.StringIO):
    def isatty(self):
        return True


def seen(stream, times, **options):
    clock = iter([0.0, *times])
    with reading(stream, clock=lambda: next(clock), **options):
        for number, _ in enumerate(times, start=1):
            tell("pairs", 1000 * number, number / 10)
    return stream.getvalue()


@pytest.mark.parametrize("stream", [io.StringIO(), Screen()])
def test_short_planning_says_nothing(stream):
    assert seen(stream, [0.1, 0.9]) == ""


def test_a_log_gets_a_line_every_ten_seconds():
    text = seen(io.StringIO(), [4, 11, 12, 20, 22, 23])
    assert text == "reading pairs: 2,000 prompts, 20%\nreading pairs: 5,000 prompts, 50%\n"


def test_a_terminal_gets_one_line_that_goes_again():
    text = seen(Screen(), [0.5, 1.5, 1.6, 2.0])
    first, second = "reading pairs: 2,000 prompts, 20%", "reading pairs: 4,000 prompts, 40%"
    assert text == f"\r{first}\r{second}\r{' ' * len(first)}\r"


def test_a_quiet_command_says_nothing_and_nobody_listens_afterwards():
    stream = io.StringIO()
    assert seen(stream, [11, 30], quiet=True) == ""
    tell("pairs", 1, 1.0)
