"""Which tests pytest-xdist gives to one worker: those of a file, all that share a cluster, and all that ask the store.
A plugin of pytest.

A worker makes a file's fixtures once, and a cluster or a store once for all files. Drivers of `tests/slow` each start a
Ray and a Prefect that nobody else can see, so that two files of them may run side by side. Whatever starts processes
goes first, since it takes longest. pytest-xdist's own groups are not used: from pytest 9.2 on, which hides what they
change, 3.8 leaves every test by itself.
"""

import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

CLUSTERS = re.compile(r"\b(ray_session|ray_pool|prefect_session)\b")
STORE = re.compile(r"\bobject_store\b|\"s3\"")
LEFT = pytest.StashKey[set[str]]()  # tests of clusters that have not been run


@cache
def shares_clusters(file: Path) -> bool:
    """Whether a test in this file may use Ray or Prefect in the process of the tests."""
    return CLUSTERS.search(file.read_text("utf-8")) is not None


def starts_processes(file: Path) -> bool:
    """Whether tests in this file wait for other processes more than for anything else."""
    return "slow" in file.parts or shares_clusters(file)


@cache
def uses_store(file: Path) -> bool:
    """Whether a test in this file may ask the store that a worker starts once."""
    return STORE.search(file.read_text("utf-8")) is not None


def group_of(root: Path, nodeid: str) -> str:
    """What all tests have in common that one worker runs, one after another."""
    file = nodeid.partition("::")[0]
    if shares_clusters(root / file):
        return "clusters"
    return "store" if uses_store(root / file) else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    if config.getvalue("dist") != "loadscope":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(config.rootpath, nodeid)

    return Scheduling(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not starts_processes(item.path))


def pytest_collection_finish(session: pytest.Session) -> None:
    session.stash[LEFT] = {item.nodeid for item in session.items if shares_clusters(item.path)}


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Ends Ray after the last test that may use it: its processes are busy even when nothing is asked of them."""
    left = item.session.stash[LEFT]
    if item.nodeid in left:
        left.remove(item.nodeid)
        if not left and "ray" in sys.modules:
            sys.modules["ray"].shutdown()
