"""Prefect or Ray goes away beneath a run: the results decide how it ends, and one line says what has happened."""

import os
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from pipeline import open_run
from tests.processes import GUARD_SECONDS, descendants, open_ports, parents, title, wait_for
from tests.runs import score_files

pytestmark = pytest.mark.slow

if not Path("/proc/self/stat").exists():
    pytest.skip("finds processes in /proc", allow_module_level=True)


def find(driver, words):
    """The one process beneath the driver whose title has these words."""
    return wait_for(lambda: [pid for pid in descendants(driver.pid) if words in title(pid)])[0]


def under_way(drive, config, run, gate, env=None):
    """A driver whose workers wait before a gate, with two items there."""
    gate.shut(run, 2)
    driver = drive("run", config, "--run-dir", run, env=env, gate=gate)
    wait_for(lambda: len(score_files(run)) >= 2)
    return driver


def has_flow_runs(database):
    try:
        with closing(sqlite3.connect(f"file:{database}?mode=ro", timeout=GUARD_SECONDS, uri=True)) as prefect:
            return prefect.execute("select count(*) from flow_run").fetchone()[0]
    except sqlite3.OperationalError:  # not made yet
        return 0


def assert_nothing_is_left(started):
    wait_for(lambda: not started & parents().keys())


def plain_lines(err):
    """What was said beside the progress."""
    known = ("reading", "[", "evaluated", "merging", "evaluating", "writing", "again", "32", "24")
    return [line for line in err.splitlines() if not line.startswith(known)]


@pytest.fixture
def env(tmp_path):
    (tmp_path / "home").mkdir()
    return {**os.environ, "PREFECT_HOME": str(tmp_path / "home" / "prefect"), "HOME": str(tmp_path / "home")}


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(signal.SIGKILL, id="killed"),
        pytest.param(signal.SIGSTOP, id="stopped", marks=pytest.mark.long),
    ],
)
def test_a_run_completes_without_prefects_server(config, tmp_path, drive, gate, env, number):
    run = tmp_path / "run"
    driver = under_way(drive, config, run, gate, env)
    server = find(driver, "prefect.server")
    started = descendants(driver.pid)
    os.kill(server, number)
    gate.open()

    code, err = driver.finish()

    assert code == 0, err
    assert open_run(run).status()["complete"]
    lines = plain_lines(err)
    assert len(lines) == 1, err
    (line,) = lines
    assert line.startswith("Prefect cannot be asked any more (")
    assert_nothing_is_left(started)


def test_a_run_completes_whose_flow_run_is_deleted(config, tmp_path, drive, gate, env):
    run = tmp_path / "run"
    driver = under_way(drive, config, run, gate, env)
    database = Path(env["PREFECT_HOME"]) / "prefect.db"
    wait_for(lambda: has_flow_runs(database))  # Prefect comes after the first items
    with sqlite3.connect(database, timeout=GUARD_SECONDS) as prefect:
        prefect.execute("delete from flow_run")
    prefect.close()
    gate.open()

    code, err = driver.finish()

    assert code == 0, err
    assert open_run(run).status()["complete"]
    assert len(plain_lines(err)) <= 1
    assert "unexpected" not in err


MOMENTS = {
    "start": lambda driver, _: any("raylet/raylet" in title(pid) for pid in descendants(driver.pid)),
    "workers": lambda driver, _: any(title(pid).startswith("ray::Worker") for pid in descendants(driver.pid)),
    "items": lambda _, run: len(score_files(run)) >= 2,
    "prefect": lambda driver, _: any("prefect.server" in title(pid) for pid in descendants(driver.pid)),
    "last": lambda _, run: len(score_files(run)) >= 24,
}


@pytest.mark.parametrize(
    ("part", "moment"),
    [
        ("raylet/raylet", "workers"),
        ("raylet/raylet", "items"),
        *(
            pytest.param(part, moment, marks=pytest.mark.long)
            for part in ("raylet/raylet", "gcs/gcs_server")
            for moment in MOMENTS
            if part != "raylet/raylet" or moment not in ("workers", "items")
        ),
    ],
)
def test_who_loses_ray_is_told_so_in_one_line_and_goes_on_by_what_it_names(
    config, tmp_path, drive, gate, env, part, moment
):
    run = tmp_path / "run"
    if moment != "last":
        gate.shut(run, 0 if moment in ("start", "workers") else 2)
    driver = drive("run", config, "--run-dir", run, env=env, gate=gate)
    wait_for(lambda: MOMENTS[moment](driver, run))
    started = descendants(driver.pid)
    os.kill(find(driver, part), signal.SIGKILL)

    code, err = driver.finish()

    done = score_files(run)
    if moment in ("start", "last") and code == 0:  # another one was started, or nobody needed it any more
        assert open_run(run).status()["complete"]
        return
    assert code == 1, err
    (line,) = wait_for(lambda: plain_lines(driver.log.read_text()))  # maybe of who speaks for it
    assert "on this machine has ended" in line or "a part of it was killed" in line
    assert line.endswith(f"next: circuits resume {run}") or "the same command" in line
    assert_nothing_is_left(started)
    if moment == "items":
        code, err = drive("resume", run, env=env).finish()
        assert code == 0, err
        assert open_run(run).status()["complete"]
        assert set(done) <= set(score_files(run))


@pytest.mark.parametrize("moment", ["guard", pytest.param("server", marks=pytest.mark.long), "answering"])
def test_no_server_is_left_by_a_driver_that_dies_while_it_starts(config, tmp_path, drive, gate, env, moment):
    """The guard is there first; then the server, which takes seconds until it can be asked."""
    gate.shut(tmp_path / "run", 2)
    driver = drive("run", config, "--run-dir", tmp_path / "run", env=env, gate=gate)
    wait_for(lambda: any("sys.stdin.buffer" in title(pid) for pid in descendants(driver.pid)))
    if moment != "guard":
        find(driver, "prefect.server")
        wait_for(lambda: moment == "server" or open_ports(driver.pid, "prefect.server"))
    started = {pid for pid in descendants(driver.pid) if "ray" not in title(pid)}
    assert started
    driver.process.kill()
    driver.process.wait()
    wait_for(lambda: not [line for line in map(title, parents()) if str(tmp_path) in line])
    assert_nothing_is_left(started)


def test_a_cluster_or_a_prefect_that_is_not_there_is_one_line(config, tmp_path, drive, env):
    wrong = {"PREFECT_API_URL": "http://127.0.0.1:9/api"}
    code, err = drive("run", config, "--run-dir", tmp_path / "a", env=env | wrong).finish()
    assert code == 2
    (line,) = plain_lines(err)
    assert "PREFECT_API_URL=http://127.0.0.1:9/api" in line
    words = ("run", config, "--run-dir", tmp_path / "b", "--set", "cluster.address=127.0.0.1:9")
    code, err = drive(*words, env=env).finish()
    assert code == 2
    (line,) = plain_lines(err)
    assert "cluster.address: '127.0.0.1:9' cannot be reached" in line
