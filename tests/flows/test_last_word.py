"""A process that is ended from outside has somebody speak for it; one that ends by itself has not."""

import subprocess
import sys

import pytest

SCRIPT = """
import os, sys
from flows.last_word import last_word

with last_word("planning was ended"):
    with last_word("the run was ended"):
        {end}
"""


@pytest.mark.parametrize(
    ("end", "said"),
    [
        ("os._exit(1)", "the run was ended\n"),
        ("os.kill(os.getpid(), 9)", "the run was ended\n"),
        ("pass", ""),
        ("sys.exit(1)", ""),
    ],
)
def test_who_is_ended_without_a_word_is_spoken_for(end, said, root):
    words = [sys.executable, "-c", SCRIPT.format(end=end)]
    done = subprocess.run(
        words, check=False, stderr=subprocess.PIPE, text=True, cwd=root
    )  # until the helper is gone
    assert done.stderr == said


FAILING = """
import os, sys
from flows import cli

@cli.app.command()
def fail():
    cli._spoken_for("next: this")
    raise cli.CircuitsError("it has failed")

{before}
sys.argv = ["circuits", "fail"]
sys.exit(cli.main())
"""


@pytest.mark.parametrize(
    ("before", "said"),
    [("", "error: it has failed"), ("cli._complain = lambda *_: os._exit(1)", "next: this")],
    ids=["said", "ended before"],
)
def test_who_is_ended_between_an_error_and_its_line_is_spoken_for(before, said, root):
    words = [sys.executable, "-c", FAILING.format(before=before)]
    done = subprocess.run(words, check=False, stderr=subprocess.PIPE, text=True, cwd=root)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.endswith(said)
