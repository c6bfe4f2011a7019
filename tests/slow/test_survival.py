"""Killed workers, killed drivers, full disks: what is lost is one attempt, and the results are the same bytes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from flows.cli import main
from pipeline import open_run
from tests.runs import content, score_files, toy_mapping

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.xdist_group("slow")]

if not Path("/proc/self/stat").exists():
    pytest.skip("finds workers in /proc", allow_module_level=True)


def wait_for(condition: Callable[[], object], seconds: float = 180.0) -> object:
    """The first true value of `condition`; a failed test when none comes."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.02)
    pytest.fail(f"nothing came within {seconds} s of what was waited for")


def parents() -> dict[int, int]:
    """Every process and its parent."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] not in "ZX":
            found[int(stat.parent.name)] = int(fields[1])
    return found


def descendants(pid: int) -> set[int]:
    tree, found = parents(), {pid}
    while more := {child for child, parent in tree.items() if parent in found} - found:
        found |= more
    return found - {pid}


def title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def busy_workers(driver: int) -> list[int]:
    """Ray writes what an actor is at into its title."""
    return [pid for pid in descendants(driver) if title(pid).startswith("ray::Worker.run")]


# A shell starts its background jobs deaf to Ctrl-C, and whatever these start inherits that.
HEARING = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from flows.cli import main
sys.exit(main(sys.argv[1:]))
"""


class Driver:
    """`circuits run` in a process of its own, with everything that it starts."""

    def __init__(self, log: Path, *argv: object) -> None:
        self.log = log
        command = [sys.executable, "-c", HEARING, *map(str, argv)]
        with log.open("w") as err:
            self.process = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=err, start_new_session=True
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def kill(self) -> None:
        """kill -9; returns when no worker is left. Takes away what would follow in a minute (Ray's agents) or
        stay (Prefect's server)."""
        started = descendants(self.pid)
        workers = {pid for pid in started if title(pid).startswith("ray::Worker")}
        self.process.kill()
        self.process.wait()
        wait_for(lambda: not workers & parents().keys(), 60)
        for pid in started & parents().keys():
            if "prefect" in title(pid) or "ray" in title(pid):
                os.kill(pid, signal.SIGKILL)

    def finish(self) -> tuple[int, str]:
        """Exit code, and what was printed to stderr."""
        return self.process.wait(timeout=300), self.log.read_text()


@pytest.fixture
def drive(tmp_path: Path) -> Iterator[Callable[..., Driver]]:
    drivers: list[Driver] = []

    def start(*argv: object) -> Driver:
        drivers.append(Driver(tmp_path / f"driver-{len(drivers)}.log", *argv))
        return drivers[-1]

    yield start
    for driver in drivers:
        if driver.process.poll() is None:
            driver.kill()


def items_of(err: str) -> list[str]:
    """The items that a run said it has computed."""
    return [line.split("] ")[1].split()[0] for line in err.splitlines() if line.startswith("[")]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """24 items of some hundred milliseconds."""
    mapping = toy_mapping(
        tmp_path / "results",
        tasks=[{"name": "induction", "count": 256}],
        methods=[
            {"name": "eap_ig"},
            {"name": "acdc", "threshold": 0.01, "scope": "shard", "as": "acdc"},
            {"name": "edge_patching"},
        ],
        shards={"prompts": 32},
        cluster={"workers": 2},
        evaluate={"edge_fractions": [0.05, 1.0]},
    )
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(mapping))
    return path


def test_a_run_survives_the_death_of_a_worker_and_then_of_its_driver(config, tmp_path, drive):
    run = tmp_path / "disturbed"
    driver = drive("run", config, "--run-dir", run)

    wait_for(lambda: len(score_files(run)) >= 2)
    (victim, *_) = wait_for(lambda: busy_workers(driver.pid))
    os.kill(victim, signal.SIGKILL)
    (record,) = wait_for(lambda: list(run.glob("failures/**/attempt-1.json")))
    died = wait_for(lambda: json.loads(record.read_text() or "null"))
    assert died["failure"] == "died"
    assert died["final"] is False

    landed = len(score_files(run))
    wait_for(lambda: len(score_files(run)) >= min(landed + 2, 20))
    wait_for(lambda: busy_workers(driver.pid))
    driver.kill()
    before = {path: path.stat().st_mtime_ns for path in score_files(run)}
    assert len(before) < 24, "killed too late to show anything"
    done = {item.name for item in open_run(run).directory.done(rename=False)}

    code, err = drive("run", config, "--run-dir", run).finish()
    assert code == 0, err
    names = {item.name for item in open_run(run).directory.items}
    assert sorted(items_of(err)) == sorted(names - done), "only what was missing, once each"
    assert {path: path.stat().st_mtime_ns for path in before} == before

    assert main(["run", str(config), "--run-dir", str(tmp_path / "undisturbed"), "--local"]) == 0
    assert content(run / "aggregate") == content(tmp_path / "undisturbed" / "aggregate")
    for name in ("faithfulness.parquet", "graph.parquet", "prompts.parquet"):
        assert (run / name).read_bytes() == (tmp_path / "undisturbed" / name).read_bytes(), name
    attempts = open_run(run).footers().set_index("item").attempt
    assert attempts[died["name"]] == 2


def test_a_pooled_search_survives_the_death_of_a_worker_and_then_of_its_driver(tmp_path, drive):
    mapping = toy_mapping(
        tmp_path / "results",
        tasks=[{"name": "induction", "count": 512}],
        methods=[{"name": "acdc", "thresholds": [1e-6, 1e-5, 0.01]}],
        shards={"prompts": 512},
        cluster={"workers": 2, "batch_size": 60},
        evaluate={"edge_fractions": [1.0]},
    )
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(mapping))
    run = tmp_path / "disturbed"

    def decided() -> list[Path]:
        return sorted(run.glob("decisions/**/receiver-*.json"))

    driver = drive("run", config, "--run-dir", run)
    wait_for(lambda: len(decided()) >= 2)
    (victim, *_) = wait_for(lambda: busy_workers(driver.pid))
    os.kill(victim, signal.SIGKILL)
    known = len(decided())
    wait_for(lambda: len(decided()) >= known + 3)
    driver.kill()
    before = {path: path.read_bytes() for path in decided()}
    assert not score_files(run), "killed too late to show anything"

    code, err = drive("run", config, "--run-dir", run).finish()
    assert code == 0, err
    assert {path: path.read_bytes() for path in before} == before
    footers = open_run(run).footers()
    facts = json.loads(footers[footers.item.str.contains("acdc")].facts.iloc[0])
    assert facts["replayed_receivers"] == len(before)
    assert main(["run", str(config), "--run-dir", str(tmp_path / "undisturbed"), "--local"]) == 0
    assert content(run / "aggregate") == content(tmp_path / "undisturbed" / "aggregate")


def test_a_run_that_is_interrupted_leaves_no_process_behind_and_goes_on(config, tmp_path, drive):
    run = tmp_path / "interrupted"
    driver = drive("run", config, "--run-dir", run)
    wait_for(lambda: len(score_files(run)) >= 2)
    started = descendants(driver.pid)
    os.kill(driver.pid, signal.SIGINT)
    code, err = driver.finish()
    assert code == 130, err
    assert "Traceback" not in err
    assert "goes on where it was" in err
    wait_for(lambda: not started & parents().keys(), 30)
    assert not (run / ".lock").exists()
    done = len(open_run(run).directory.done())
    code, err = drive("resume", run).finish()
    assert code == 0, err
    assert len(items_of(err)) == 32 - done


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with room for the plan and some files."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, check=False)
    except OSError:
        pytest.skip("no mount command")
    if done.returncode:
        pytest.skip("may not mount a file system here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("local", [True, False], ids=["here", "ray"])
def test_a_full_disk_leaves_whole_files_a_record_and_a_run_that_goes_on(small_disk, tmp_path, drive, local):
    mapping = toy_mapping(
        small_disk / "results", tasks=[{"name": "induction", "count": 100}], shards={"prompts": 1}
    )
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(mapping))
    command = ["run", config, *(["--local"] if local else [])]

    code, err = drive(*command).finish()
    assert code == 3, err
    assert "no space left on the device" in err
    assert "Traceback" not in err
    (path,) = (small_disk / "results").iterdir()
    run = open_run(path)
    landed = set(items_of(err))
    assert 0 < len(landed) < 300
    assert {item.name for item in run.directory.done(deep=True, rename=False)} >= landed
    files = [*score_files(path), *path.glob("prompt_metrics/**/*.parquet")]
    assert len(files) == len(run.directory.done(deep=True, rename=False)), "no torn file under a final name"
    assert not list(path.rglob(".*tmp-*")), "no temporary file either"
    records = run.failures()
    assert records
    assert {record["failure"] for record in records} == {"storage"}
    assert "free some space" in records[0]["next_step"]

    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    code, err = drive(*command).finish()
    assert code == 0, err
    assert not landed & set(items_of(err))
    assert open_run(path).status()["complete"]
