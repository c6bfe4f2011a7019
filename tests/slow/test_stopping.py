"""Ending a run on purpose: soon, with nothing left behind, and the same command goes on."""

import os
import signal
import time
from pathlib import Path

import pytest

from pipeline import open_run
from pipeline.store.run.log import read_log
from tests.processes import busy_workers, descendants, parents, title, wait_for
from tests.runs import items_of, score_files

pytestmark = pytest.mark.slow

if not Path("/proc/self/stat").exists():
    pytest.skip("finds processes in /proc", allow_module_level=True)


def terminate(driver, run):
    os.kill(driver.pid, signal.SIGTERM)


def interrupt(driver, run):
    os.kill(driver.pid, signal.SIGINT)


def interrupt_as_a_terminal_does(driver, run):
    os.killpg(driver.pid, signal.SIGINT)


def insist(driver, run):
    while driver.process.poll() is None:
        os.kill(driver.pid, signal.SIGTERM)
        time.sleep(0.02)


def cancel(driver, run):
    from pipeline.schedule.control import cancel

    print(cancel(run))


@pytest.mark.parametrize(
    "end",
    [
        pytest.param(terminate, marks=pytest.mark.long),
        interrupt,
        pytest.param(interrupt_as_a_terminal_does, marks=pytest.mark.long),
        insist,
        pytest.param(cancel, marks=pytest.mark.long),
    ],
)
def test_a_run_that_is_stopped_leaves_no_process_behind_and_goes_on(config, tmp_path, drive, gate, end):
    run = tmp_path / "stopped"
    early = os.environ | {
        "PREFECT_PROFILE": "ephemeral"
    }  # where a server may be named, Prefect's own comes first
    gate.shut(run, 2)
    driver = drive("run", config, "--run-dir", run, env=early, gate=gate)
    wait_for(lambda: len(score_files(run)) >= 2)
    wait_for(lambda: any("prefect" in title(pid) for pid in descendants(driver.pid)))  # it has to go too
    wait_for(lambda: busy_workers(driver.pid))
    started = descendants(driver.pid)
    since = time.monotonic()
    end(driver, run)
    code, err = driver.finish()
    exited = time.monotonic() - since
    try:
        wait_for(lambda: not started & parents().keys())
    except TimeoutError:
        pytest.fail(f"still there: {[title(pid) for pid in started & parents().keys()]}; said: {err}")
    print(f"{end.__name__}: exit after {exited:.1f} s, no process after {time.monotonic() - since:.1f} s")
    assert code == 130, err
    assert "Traceback" not in err
    assert "goes on where it was" in err
    assert not (run / ".lock").exists()
    assert not (run / ".cancel").exists()
    assert read_log(run)[-1]["kind"] == "end"
    done = len(open_run(run).directory.done())
    assert done < 32
    if end is terminate:
        code, err = drive("resume", run).finish()
        assert code == 0, err
        assert len(items_of(err)) == 32 - done
