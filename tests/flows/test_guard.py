"""A helper goes with whoever started it, however that ends."""

import signal
import subprocess
import sys

import pytest

from tests.processes import GUARD_SECONDS, parents, wait_for

DRIVER = """
import os, subprocess, sys, time
from flows.guard import guard
helper = subprocess.Popen([sys.executable, "-c", {helper!r}], stdout=subprocess.PIPE, start_new_session=True)
helper.stdout.readline()
guard(helper.pid)
guard(helper.pid)
print(helper.pid, flush=True)
{then}
"""
POLITE = "import time; print(flush=True); time.sleep(600)"
DEAF = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(600)"
)


def start(helper, then):
    """A driver with a guarded helper, and the helper's pid."""
    code = DRIVER.format(helper=helper, then=then)
    driver = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    return driver, int(driver.stdout.readline())


@pytest.mark.parametrize("helper", [POLITE, DEAF], ids=["polite", "deaf"])
def test_a_helper_ends_when_its_driver_is_killed(helper):
    driver, pid = start(helper, "time.sleep(600)")
    assert pid in parents()
    children = {child for child, parent in parents().items() if parent == driver.pid}
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    assert len(children) == 2, "the helper and one guard"
    wait_for(lambda: not children & parents().keys())


def test_a_driver_that_ends_its_helper_itself_leaves_no_guard():
    driver, pid = start(POLITE, "helper.terminate(); helper.wait()")
    driver.communicate(timeout=GUARD_SECONDS)
    assert driver.returncode == 0
    assert pid not in parents()
