"""Killed while layers are read or attention is cut: what had landed stays, the rest is computed once."""

from pathlib import Path

import pytest
import yaml

from pipeline.store.place.where import found
from pipeline.verify import verify
from tests.processes import busy_workers, wait_for
from tests.runs import items_of, toy_mapping
from tests.slow.survival import assert_like_undisturbed

pytestmark = pytest.mark.slow

if not Path("/proc/self/stat").exists():
    pytest.skip("finds workers in /proc", allow_module_level=True)


@pytest.mark.parametrize(
    ("method", "folder"),
    [
        pytest.param(
            {"name": "logit_lens", "as": "lens"}, "readings", id="logit lens", marks=pytest.mark.long
        ),
        pytest.param({"name": "knockout", "from": ["a", "b"], "as": "lens"}, "knockouts", id="knockout"),
    ],
)
def test_what_a_method_of_layers_had_read_when_its_driver_was_killed_is_kept(method, folder, tmp_path, drive):
    mapping = toy_mapping(
        tmp_path / "results",
        tasks=[{"name": "induction", "count": 1024}],
        methods=[method],
        shards={"prompts": 64},
        cluster={"workers": 2},
    )
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(mapping))
    run = tmp_path / "disturbed"

    def landed() -> dict[str, tuple[bytes, int]]:
        files = found(run / folder, "**/*.parquet")
        return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}

    driver = drive("run", config, "--run-dir", run)
    wait_for(lambda: len(landed()) >= 2)
    wait_for(lambda: busy_workers(driver.pid))
    driver.kill()
    before = landed()
    assert len(before) < 16, "killed too late to show anything"

    code, err = drive("run", config, "--run-dir", run).finish()
    assert code == 0, err
    computed = [name for name in items_of(err) if "/lens/" in name]
    shards = [f"shard-{shard:05d}.parquet" for shard in range(16)]
    left = [f"induction/lens/{shard}" for shard, name in enumerate(shards) if name not in before]
    assert sorted(computed) == sorted(left), "once each"
    assert {name: landed()[name] for name in before} == before
    assert verify(run).damaged == ()
    assert_like_undisturbed(config, run, tmp_path / "undisturbed", f"merged_{folder}", "prompts.parquet")
