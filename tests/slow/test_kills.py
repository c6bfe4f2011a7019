"""Kills at random file operations (`tests.kills`)."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("kills", "seed"),
    [
        pytest.param(15, 1, marks=pytest.mark.timeout(900), id="a tenth"),
        pytest.param(150, 2, marks=[pytest.mark.long, pytest.mark.timeout(7200)], id="all"),
    ],
)
def test_whatever_was_killed_at_any_file_operation_ends_in_the_same_bytes(kills, seed, root):
    command = [sys.executable, "-m", "tests.kills", str(kills), str(seed)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
