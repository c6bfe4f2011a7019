"""Which cases of a test with many are fast. A plugin of pytest.

Of a test over families of models: one, another one in each test; each family is met many times by the fast tests too.
Of a grid of several parameters: as many as its longest side has, so that every value of every parameter is met.
Every case is run by `make test-slow`, and one that is named on the command line is run too.
"""

from collections import defaultdict
from math import prod
from zlib import crc32

import pytest

FOLDERS = {"engine", "methods", "oracles"}
FAMILIES = {"kind", "shape", "known"}  # parameters whose values are families there
FAST = 1  # cases of one test over them


@pytest.hookimpl(tryfirst=True)  # before pytest leaves out what is slow
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    tests: dict[tuple[object, object, str], list[pytest.Item]] = defaultdict(list)
    for item in items:
        if hasattr(item, "callspec") and not item.get_closest_marker("slow"):
            tests[item.path, item.cls, item.originalname].append(item)
    for (path, _, name), cases in tests.items():
        of_families = path.parent.name in FOLDERS and FAMILIES & cases[0].callspec.params.keys()
        fast = one_of(sorted(cases, key=lambda item: item.nodeid), name) if of_families else diagonal(cases)
        for item in set(cases) - set(fast):
            item.add_marker(pytest.mark.slow)


def one_of(cases: list[pytest.Item], name: str) -> list[pytest.Item]:
    """At most FAST cases at the same distance from each other; `name` decides which is the first."""
    step = -(-len(cases) // FAST)
    return cases[crc32(name.encode()) % step :: step] if step > 1 else cases


def diagonal(cases: list[pytest.Item]) -> list[pytest.Item]:
    """Cases of a grid in which every value of every parameter is met; all of them where they are no grid."""
    names = cases[0].callspec.params
    numbered = {_numbered([id(item.callspec.params[name]) for item in cases]) for name in names}
    sides = sorted(numbered - {(0,) * len(cases)})  # without those of one value
    by_place = dict(zip(zip(*sides, strict=True), cases, strict=True)) if sides else {}
    lengths = [max(side) + 1 for side in sides]
    if len(sides) < 2 or len(by_place) != len(cases) or len(cases) != prod(lengths):
        return cases
    return [by_place[tuple(step % length for length in lengths)] for step in range(max(lengths))]


def _numbered(values: list[int]) -> tuple[int, ...]:
    """Each value by its number in the order in which they come; what is given together is numbered alike."""
    numbers: dict[int, int] = {}
    return tuple(numbers.setdefault(value, len(numbers)) for value in values)
