"""Killed while layers are read, attention is cut or prompts are tried: what landed stays, the rest is computed once."""

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


LENS = {"methods": [{"name": "logit_lens", "as": "lens"}]}
KNOCKOUT = {"methods": [{"name": "knockout", "from": ["a", "b"], "as": "lens"}]}
CORRECT = {"tasks": [{"name": "induction", "count": 256, "filter": "correct"}], "methods": ["eap"]}
SHARDS = [f"shard-{shard:05d}.parquet" for shard in range(16)]


@pytest.mark.parametrize(
    ("asked", "folder", "kind", "merged"),
    [
        pytest.param(LENS, "readings", "lens", "merged_readings", id="logit lens", marks=pytest.mark.long),
        pytest.param(
            KNOCKOUT, "knockouts", "lens", "merged_knockouts", id="knockout", marks=pytest.mark.long
        ),
        pytest.param(CORRECT, "filtered", "filtered", "aggregate", id="prompts that are right"),
    ],
)
def test_what_had_landed_when_the_driver_was_killed_is_kept(
    asked, folder, kind, merged, tmp_path, drive, gate
):
    mapping = toy_mapping(
        tmp_path / "results",
        **{"tasks": [{"name": "induction", "count": 256}]} | asked,
        shards={"prompts": 16},
        cluster={"workers": 2},
    )
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(mapping))
    run = tmp_path / "disturbed"

    def landed() -> dict[str, tuple[bytes, int]]:
        files = found(run / folder, "**/*.parquet")
        return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}

    gate.shut(run, 2, f"{folder}/**/*.parquet")
    driver = drive("run", config, "--run-dir", run, gate=gate)
    wait_for(lambda: len(landed()) >= 2)
    wait_for(lambda: busy_workers(driver.pid))
    driver.kill()
    before = landed()
    assert len(before) <= 3

    code, err = drive("run", config, "--run-dir", run).finish()
    assert code == 0, err
    computed = [name.partition("/")[2] for name in items_of(err) if f"/{kind}/" in name]
    left = [f"{kind}/{shard}" for shard, name in enumerate(SHARDS) if name not in before]
    assert sorted(computed) == sorted(left), "once each"
    assert {name: landed()[name] for name in before} == before
    assert verify(run).damaged == ()
    assert_like_undisturbed(config, run, tmp_path / "undisturbed", merged, "prompts.parquet")
