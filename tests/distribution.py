"""Which tests pytest-xdist gives to one worker: those of a file, all that start Ray or Prefect, and all that ask the
store. A plugin of pytest.

A worker makes a file's fixtures once, and a cluster or a store once for all files. Clusters go first, since no other
group takes as long. pytest-xdist's own groups are not used: from pytest 9.2 on, which hides what they change, 3.8
leaves every test by itself.
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
def uses_clusters(file: Path) -> bool:
    """Whether a test in this file may start Ray or Prefect."""
    return "slow" in file.parts or CLUSTERS.search(file.read_text("utf-8")) is not None


@cache
def uses_store(file: Path) -> bool:
    """Whether a test in this file may ask the store that a worker starts once."""
    return STORE.search(file.read_text("utf-8")) is not None


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    if config.getvalue("dist") != "loadscope":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            if uses_clusters(config.rootpath / file):
                return "clusters"
            return "store" if uses_store(config.rootpath / file) else file

    return Scheduling(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not uses_clusters(item.path))


def pytest_collection_finish(session: pytest.Session) -> None:
    session.stash[LEFT] = {item.nodeid for item in session.items if uses_clusters(item.path)}


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Ends Ray after the last test that may use it: its processes are busy even when nothing is asked of them."""
    left = item.session.stash[LEFT]
    if item.nodeid in left:
        left.remove(item.nodeid)
        if not left and "ray" in sys.modules:
            sys.modules["ray"].shutdown()
