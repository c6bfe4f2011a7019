"""`--cpu`: the CPU seconds of the tests, by file, of the dearest and in all, with every process that they start.

A plugin of pytest. What a fixture costs is with the test that is the first to need it.

Knows /proc; elsewhere only processes that have ended are counted. Seconds are shown, never compared with anything.
"""

import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unchanged import children

DEAREST = 30  # tests that are named
TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--cpu", action="store_true", help="show the CPU seconds of the dearest tests, by file and in all"
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.option.cpu:
        config.pluginmanager.register(Meter(config), "circuits-cpu")


class Meter:
    """One per process of pytest; those of pytest-xdist tell theirs to the one that was called."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._seen: dict[tuple[int, int], float] = {}  # by pid and start, of what the children have started
        self._files: dict[str, float] = defaultdict(float)
        self._tests: dict[str, float] = {}
        self._elsewhere = 0.0
        self._last = 0.0

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self._last = self.used()
        return (yield)

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> None:
        item.user_properties.append(("cpu", self.used() - self._last))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "teardown":
            used = dict(report.user_properties).get("cpu", 0.0)
            self._files[report.nodeid.partition("::")[0]] += used
            self._tests[report.nodeid] = used

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        self._elsewhere += getattr(node, "workeroutput", {}).get("cpu", 0.0)

    def pytest_sessionfinish(self) -> None:
        if hasattr(self._config, "workeroutput"):
            self._config.workeroutput["cpu"] = self.used()

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if hasattr(self._config, "workeroutput"):
            return
        own = sum(os.times()[:2]) if self._elsewhere else self.used()  # workers are children too
        terminalreporter.section("CPU seconds")
        for test, seconds in sorted(self._tests.items(), key=lambda pair: -pair[1])[:DEAREST]:
            terminalreporter.line(f"{seconds:8.1f} {test}")
        terminalreporter.line("")
        for file, seconds in sorted(self._files.items(), key=lambda pair: -pair[1]):
            terminalreporter.line(f"{seconds:8.1f} {file}")
        rest = own + self._elsewhere - sum(self._files.values())
        terminalreporter.line(f"{rest:8.1f} imports, collection and the end of shared fixtures")
        terminalreporter.line(f"{own + self._elsewhere:8.1f} in all")

    def used(self) -> float:
        """User and system time of this process, of its children that have ended, and of all that it has started."""
        mine = os.getpid()
        alive = dict(_descendants(mine)) if children() else {}  # looking costs milliseconds
        own = {pid for (pid, _), (parent, _) in alive.items() if parent == mine}
        self._seen |= {key: used for key, (parent, used) in alive.items() if parent != mine}
        theirs = sum(used for key, (_, used) in alive.items() if key[0] in own)
        return sum(os.times()[:4]) + theirs + sum(self._seen.values())


def _descendants(root: int) -> Iterator[tuple[tuple[int, int], tuple[int, float]]]:
    """((pid, start), (parent, seconds with those of its ended children)) of all that a process has started."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        found[int(stat.parent.name), int(fields[19])] = (int(fields[1]), sum(map(int, fields[11:15])) / TICKS)
    known = {root}
    while more := {pid for (pid, _), (parent, _) in found.items() if parent in known} - known:
        known |= more
    return ((key, value) for key, value in found.items() if key[0] in known - {root})
