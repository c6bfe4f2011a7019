"""How tests are handed out to workers, and that they run as well where there are none."""

import re
import subprocess
import sys
import tomllib

import pytest

from tests.processes import GUARD_SECONDS

OF_PYTEST = {"parametrize", "skip", "skipif", "usefixtures"}
OF_OTHERS = {"timeout"}  # pytest-timeout's, whose settings `pyproject.toml` holds


def test_no_mark_needs_pytest_xdist(root):
    """An unknown mark is an error, and its own are unknown where it is not installed."""
    with (root / "pyproject.toml").open("rb") as file:
        ours = tomllib.load(file)["tool"]["pytest"]["ini_options"]["markers"]
    known = {line.partition(":")[0] for line in ours} | OF_PYTEST | OF_OTHERS
    used = {
        (str(path.relative_to(root)), mark)
        for path in (root / "tests").rglob("*.py")
        for mark in re.findall(r"\bpytest\.mark\.(\w+)", path.read_text("utf-8"))
    }

    assert {mark for _, mark in used} >= {"slow", "parametrize"}
    assert [(path, mark) for path, mark in sorted(used) if mark not in known] == []


@pytest.mark.slow
def test_tests_run_in_one_process_without_pytest_xdist(root):
    words = ["-q", "-p", "no:xdist", "-p", "no:cacheprovider", "tests/core/test_naming.py", "tests/slow"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=GUARD_SECONDS,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
