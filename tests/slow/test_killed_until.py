"""Killed while prompts are added: the run goes on, adds what it would have added, and ends where it would have."""

import pytest
import yaml

from tests.processes import wait_for
from tests.runs import score_files, toy_mapping
from tests.slow.survival import assert_like_undisturbed

pytestmark = pytest.mark.slow


def test_a_driver_that_dies_while_prompts_are_added_adds_the_same_prompts_then(tmp_path, drive, gate):
    mapping = toy_mapping(
        tmp_path / "results",
        tasks=[{"name": "induction", "count": 32}],
        methods=["eap_ig", {"name": "edge_patching"}],
        shards={"prompts": 32},
        store={"prompt_scores": True},
        until={"stability": 0.999, "max_prompts": 320, "fraction": 0.3, "resamples": 10},
        cluster={"workers": 2},
        evaluate={"edge_fractions": [1.0]},
    )
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(mapping))
    run = tmp_path / "disturbed"
    gate.shut(run, 5)
    driver = drive("run", config, "--run-dir", run, gate=gate)
    wait_for(lambda: len(score_files(run)) >= 5)
    driver.kill()
    before = {path: path.stat().st_mtime_ns for path in score_files(run)}
    assert len(before) <= 6
    code, err = drive("run", config, "--run-dir", run).finish()
    assert code == 0, err
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert "stopped at 320 prompts, the most there may be" in err
    names = ("until.json", "aggregate", "faithfulness.parquet", "prompts.parquet")
    assert_like_undisturbed(config, run, tmp_path / "beside", *names)
