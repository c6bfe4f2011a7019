"""A run in a store that refuses a twentieth of all writes, whose driver is killed: nothing lost, the same bytes."""

from pathlib import Path

import pytest
import yaml

from pipeline import open_run
from pipeline.verify import verify
from tests.object_store import folder_in, serving
from tests.processes import wait_for
from tests.runs import score_files, toy_mapping
from tests.slow.survival import assert_like_undisturbed, kill_and_go_on

pytestmark = [pytest.mark.slow, pytest.mark.long]

if not Path("/proc/self/stat").exists():
    pytest.skip("finds workers in /proc", allow_module_level=True)


def test_a_run_in_a_store_survives_the_death_of_its_driver(tmp_path, drive, gate):
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

        gate.shut(run, 3)
        driver = drive("run", config, "--run-dir", run, gate=gate)
        wait_for(lambda: len(score_files(run)) >= 3)
        done = kill_and_go_on(driver, drive, config, run, most=4)
        assert verify(run).damaged == ()
        assert_like_undisturbed(config, run, tmp_path / "undisturbed", "aggregate", "circuits")
        print(f"{len(done)} of {len(open_run(run).directory.items)} items had landed")
