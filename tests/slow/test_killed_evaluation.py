"""Killed while circuits are evaluated: what was evaluated stays as it is, and only what was not is evaluated then."""

import json
import os
import signal
from pathlib import Path

import pytest
import yaml

from tests.processes import busy_workers, wait_for
from tests.runs import items_of, toy_mapping
from tests.slow.survival import assert_like_undisturbed

pytestmark = pytest.mark.slow

if not Path("/proc/self/stat").exists():
    pytest.skip("finds workers in /proc", allow_module_level=True)

SHARDS = 24


def test_an_evaluation_survives_the_death_of_a_worker_and_then_of_its_driver(tmp_path, drive, gate):
    mapping = toy_mapping(
        tmp_path / "results",
        tasks=[{"name": "induction", "count": 8 * SHARDS}],
        methods=["eap", {"name": "edge_patching", "ablation": "zero"}],
        shards={"prompts": 8},
        cluster={"workers": 2},
        evaluate={
            "edge_fractions": [0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0],
            "also": ["auroc"],
        },
    )
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(mapping))
    run = tmp_path / "disturbed"

    def evaluated() -> dict[str, tuple[bytes, int]]:
        files = sorted((run / "evaluations").glob("task=*/shard-*.parquet"))
        return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}

    gate.shut(run, 2, "evaluations/**/*.parquet")
    driver = drive("run", config, "--run-dir", run, gate=gate)
    wait_for(lambda: len(evaluated()) >= 2)
    (victim, *_) = wait_for(lambda: busy_workers(driver.pid))
    os.kill(victim, signal.SIGKILL)
    (record,) = wait_for(lambda: list(run.glob("failures/**/attempt-1.json")))
    died = wait_for(lambda: json.loads(record.read_text() or "null"))
    assert (died["kind"], died["failure"], died["final"]) == ("evaluations", "died", False)
    driver.kill()
    before = evaluated()
    assert len(before) <= 3
    assert not (run / "faithfulness.parquet").exists()

    code, err = drive("run", config, "--run-dir", run).finish()
    assert code == 0, err
    assert not items_of(err), "every item was there"
    again = [line.split()[1] for line in err.splitlines() if line.startswith("evaluated ")]
    left = {f"shard-{shard:05d}.parquet" for shard in range(SHARDS)} - before.keys()
    assert sorted(again) == sorted(f"induction/evaluation=faithfulness/{int(name[6:11])}" for name in left)
    assert {name: evaluated()[name] for name in before} == before
    names = ("evaluations", "evaluations.parquet", "faithfulness.parquet", "circuits", "aggregate")
    assert_like_undisturbed(config, run, tmp_path / "undisturbed", *names)
