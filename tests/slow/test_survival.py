"""Killed workers, killed drivers, full disks: what is lost is one attempt, and the results are the same bytes."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from flows.cli import main
from pipeline import load_scores, open_run
from tests.processes import busy_workers, wait_for
from tests.runs import content, items_of, score_files, toy_mapping, with_more_words
from tests.slow.survival import assert_like_undisturbed, kill_and_go_on

pytestmark = pytest.mark.slow

if not Path("/proc/self/stat").exists():
    pytest.skip("finds workers in /proc", allow_module_level=True)


DECIDED = "decisions/**/step-*.json"


def test_a_run_survives_the_death_of_a_worker_and_then_of_its_driver(config, tmp_path, drive, gate):
    run = tmp_path / "disturbed"
    gate.shut(run, 2)
    driver = drive("run", config, "--run-dir", run, gate=gate)

    wait_for(lambda: len(score_files(run)) >= 2)
    (victim, *_) = wait_for(lambda: busy_workers(driver.pid))
    os.kill(victim, signal.SIGKILL)
    (record,) = wait_for(lambda: list(run.glob("failures/**/attempt-1.json")))
    died = wait_for(lambda: json.loads(record.read_text() or "null"))
    assert died["failure"] == "died"
    assert died["final"] is False

    kill_and_go_on(driver, drive, config, run, most=3)
    beside = tmp_path / "undisturbed"
    assert_like_undisturbed(
        config, run, beside, "aggregate", "faithfulness.parquet", "graph.parquet", "prompts.parquet"
    )
    attempts = open_run(run).footers().set_index("item").attempt
    assert attempts[died["name"]] == 2


@pytest.mark.parametrize("scores", [pytest.param("exact", marks=pytest.mark.long), "bounded"])
def test_a_pooled_search_survives_the_death_of_a_worker_and_then_of_its_driver(tmp_path, drive, gate, scores):
    prompts, batch_size, thresholds = {
        "exact": (512, 60, [1e-6, 1e-5, 0.01]),
        "bounded": (32, 10, [1e-5, 0.01]),
    }[scores]
    mapping = toy_mapping(
        tmp_path / "results",
        tasks=[{"name": "induction", "count": prompts}],
        methods=[{"name": "acdc", "thresholds": thresholds, "scores": scores}],
        shards={"prompts": prompts},
        cluster={"workers": 2, "batch_size": batch_size},
        evaluate={"edge_fractions": [1.0]},
    )
    if scores == "bounded":
        mapping["model"] = {"name": str(with_more_words(tmp_path / "model"))}
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(mapping))
    run = tmp_path / "disturbed"

    def decided() -> list[Path]:
        return sorted(run.glob(DECIDED))

    gate.shut(run, 2, DECIDED)
    driver = drive("run", config, "--run-dir", run, gate=gate)
    wait_for(lambda: len(decided()) >= 2)
    (victim, *_) = wait_for(lambda: busy_workers(driver.pid))
    os.kill(victim, signal.SIGKILL)
    known = len(decided())
    gate.shut(run, known + 1, DECIDED)
    wait_for(lambda: len(decided()) > known)
    wait_for(lambda: busy_workers(driver.pid))
    driver.kill()
    before = {path: path.read_bytes() for path in decided()}
    assert not score_files(run)

    code, err = drive("run", config, "--run-dir", run).finish()
    assert code == 0, err
    assert {path: path.read_bytes() for path in before} == before
    footers = open_run(run).footers()
    facts = json.loads(footers[footers.item.str.contains("acdc")].facts.iloc[0])
    assert facts["replayed_steps"] == len(before)
    assert main(["run", str(config), "--run-dir", str(tmp_path / "undisturbed"), "--local"]) == 0
    assert content(run / "aggregate") == content(tmp_path / "undisturbed" / "aggregate")
    if scores == "bounded":
        assert (load_scores(run)["score_error"] > 0).any()


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


@pytest.mark.parametrize(
    "local", [pytest.param(True, id="here"), pytest.param(False, id="ray", marks=pytest.mark.long)]
)
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
