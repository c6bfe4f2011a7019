"""A helper goes with whoever started it, however that ends."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from flows.guard import guarded, release
from tests.processes import parents, wait_for

DRIVER = """
import os, sys, time
from flows.guard import guarded
guard = guarded([sys.executable, "-c", {helper!r}, {told!r}])
print(flush=True)
{then}
"""
HELPER = """
import os, signal, sys, time
{first}
with open(sys.argv[1] + ".new", "w") as told:
    told.write(str(os.getpid()))
os.replace(told.name, sys.argv[1])
time.sleep(600)
"""
POLITE = HELPER.format(first="")
DEAF = HELPER.format(first="signal.signal(signal.SIGTERM, signal.SIG_IGN)")


def start(told, helper, then="time.sleep(600)"):
    """A driver that has asked for a guarded helper, which writes its pid to `told`."""
    code = DRIVER.format(helper=helper, told=str(told), then=then)
    driver = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    driver.stdout.readline()
    return driver


def pid_in(told: Path) -> int:
    return int(wait_for(lambda: told.is_file() and told.read_text()))


def guards_of(driver) -> set[int]:
    return {child for child, parent in parents().items() if parent == driver.pid}


@pytest.mark.parametrize("helper", [POLITE, DEAF], ids=["polite", "deaf"])
def test_a_helper_ends_when_its_driver_is_killed(helper, tmp_path):
    driver = start(tmp_path / "pid", helper)
    started = {pid_in(tmp_path / "pid"), *guards_of(driver)}
    assert len(started) == 2, "the helper and its guard"
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    wait_for(lambda: not started & parents().keys())


def test_no_helper_is_left_however_early_its_driver_is_killed(tmp_path):
    """Also where it has not come to its first line, or has not been started at all."""
    for number in range(3):
        driver = start(tmp_path / str(number), POLITE, "os.kill(os.getpid(), 9)")
        driver.communicate()
    wait_for(lambda: not any(str(tmp_path) in line for line in command_lines()))


def command_lines():
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield file.read_text(errors="replace")
        except OSError:
            continue


def test_a_helper_is_ended_on_request_and_its_guard_with_it(tmp_path):
    guard = guarded([sys.executable, "-c", POLITE, str(tmp_path / "pid")])
    pid = pid_in(tmp_path / "pid")
    release(guard)
    assert pid not in parents()
    assert guard.returncode == 0


def test_a_guard_ends_with_its_helper_and_passes_open_files_on(tmp_path):
    with (tmp_path / "file").open("w") as file:
        code = f"import os; os.write({file.fileno()}, b'heard')"
        guard = guarded([sys.executable, "-c", code], dict(os.environ), [file.fileno()])
        assert guard.wait(60) == 0
    guard.stdin.close()
    assert (tmp_path / "file").read_text() == "heard"


def test_what_a_helper_writes_is_for_its_owner_alone(tmp_path):
    told = tmp_path / "pid"
    guard = guarded([sys.executable, "-c", POLITE, str(told)])
    pid_in(told)
    release(guard)
    assert told.stat().st_mode & 0o777 == 0o600
