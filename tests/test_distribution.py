"""How tests are handed out to workers, and that they run as well where there are none."""

import random
import re
import subprocess
import sys
import tomllib

import pytest

from tests.distribution import group_of
from tests.infra.nodes import free_block
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


def test_tests_of_one_ray_share_a_worker_and_drivers_with_their_own_do_not(root):
    files = [str(path.relative_to(root)) for path in (root / "tests").rglob("test_*.py")]
    groups = {file: group_of(root, f"{file}::test") for file in files}
    shared = {file for file, group in groups.items() if group == "clusters"}
    drivers = {file for file in files if file.startswith("tests/slow/")} - shared

    assert shared == {
        "tests/cluster/test_pools.py",
        "tests/flows/test_flow.py",
        "tests/slow/test_killed_judging.py",
    }
    alone = [file for file in drivers if groups[file] == file]
    assert len(alone) > 15
    assert {groups[file] for file in drivers.difference(alone)} == {"store"}


def test_no_two_processes_get_one_block_of_ports(root):
    """Random numbers begin alike in each, and nobody listens yet."""
    words = "import random; random.seed(0); from tests.infra.nodes import free_block; print(free_block()); input()"
    command = [sys.executable, "-uc", words]
    other = subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        random.seed(0)
        blocks = {int(other.stdout.readline()), free_block(), free_block()}
    finally:
        other.communicate("\n", timeout=GUARD_SECONDS)

    assert len(blocks) == 3
