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
