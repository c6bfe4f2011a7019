"""Which cases of a test over families of models are fast: one, another one in each test. A plugin of pytest.

Every case is run by `make test-slow`. Each family is met many times by the fast tests too. A case
that is named on the command line is run.
"""

from collections import defaultdict
from zlib import crc32

import pytest

FOLDERS = {"engine", "methods", "oracles"}
FAMILIES = {"kind", "shape", "known"}  # parameters whose values are families there
FAST = 1  # cases of one test


@pytest.hookimpl(tryfirst=True)  # before pytest leaves out what is slow
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    grids: dict[tuple[object, str], list[pytest.Item]] = defaultdict(list)
    for item in items:
        call = getattr(item, "callspec", None)
        if item.path.parent.name not in FOLDERS or call is None or item.get_closest_marker("slow"):
            continue
        if FAMILIES & call.params.keys():
            grids[item.path, item.originalname].append(item)
    for (_, name), grid in grids.items():
        for item in set(grid) - set(diagonal(sorted(grid, key=lambda item: item.nodeid), name)):
            item.add_marker(pytest.mark.slow)


def diagonal(grid: list[pytest.Item], name: str) -> list[pytest.Item]:
    """At most FAST cases at the same distance from each other; `name` decides which is the first."""
    step = -(-len(grid) // FAST)
    return grid[crc32(name.encode()) % step :: step] if step > 1 else grid
