"""Which tests pytest-xdist gives to one worker: those of a file, and all that start Ray or Prefect. A plugin of pytest.

A worker makes a file's fixtures once, and a cluster once for all files. pytest-xdist's own groups are not used: from
pytest 9.2 on, which hides what they change, 3.8 leaves every test by itself.
"""

import re
from functools import cache
from typing import Any

import pytest

CLUSTERS = re.compile(r"\b(ray_session|ray_pool|prefect_session)\b")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    if config.getvalue("dist") != "loadscope":
        return None
    from xdist.scheduler import LoadScopeScheduling

    @cache
    def group_of(file: str) -> str:
        if file.startswith("tests/slow/") or CLUSTERS.search((config.rootpath / file).read_text("utf-8")):
            return "clusters"
        return file

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid.partition("::")[0])

    return Scheduling(config, log)
