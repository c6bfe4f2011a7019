"""A run in a store that refuses a twentieth of all writes, whose driver is killed: nothing lost, the same bytes."""

import json
from pathlib import Path

import pytest
import yaml

from flows.cli import main
from pipeline import open_run
from pipeline.store.place import found, relative
from pipeline.verify import verify
from tests.object_store import folder_in, serving
from tests.processes import busy_workers, wait_for
from tests.runs import items_of, score_files, toy_mapping

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(600), pytest.mark.xdist_group("slow")]

if not Path("/proc/self/stat").exists():
    pytest.skip("finds workers in /proc", allow_module_level=True)


def contents(folder):
    return {str(relative(path, folder)): path.read_bytes() for path in found(folder, "**/*")}


def test_a_run_in_a_store_survives_the_death_of_its_driver(tmp_path, drive):
    with serving(fail=0.05) as bucket:
        output = folder_in(bucket)
        mapping = toy_mapping(
            output,
            tasks=[{"name": "induction", "count": 256}],
            methods=[{"name": "eap_ig"}, {"name": "acdc", "threshold": 0.01, "scope": "shard", "as": "acdc"}],
            shards={"prompts": 32},
            cluster={"workers": 2},
            evaluate={"edge_fractions": [0.05, 1.0]},
        )
        config = tmp_path / "config.yaml"
        config.write_text(yaml.safe_dump(mapping))
        run = output / "disturbed"

        driver = drive("run", config, "--run-dir", run)
        wait_for(lambda: len(score_files(run)) >= 3)
        wait_for(lambda: busy_workers(driver.pid))
        driver.kill()
        before = {path: path.stat().st_mtime_ns for path in score_files(run)}
        assert len(before) < 16, "killed too late to show anything"
        done = {item.name for item in open_run(run).directory.done(rename=False)}

        code, err = drive("run", config, "--run-dir", run).finish()
        assert code == 0, err
        names = {item.name for item in open_run(run).directory.items}
        assert sorted(items_of(err)) == sorted(names - done), "only what was missing, once each"
        assert {path: path.stat().st_mtime_ns for path in before} == before
        assert verify(run).damaged == ()

        beside = tmp_path / "undisturbed"
        assert main(["run", str(config), "--run-dir", str(beside), "--local"]) == 0
        for part in ("aggregate", "circuits"):
            assert contents(run / part) == contents(beside / part) != {}
        print(json.dumps({"done_before": len(done), "items": len(names), "score_files_before": len(before)}))
