"""What a killed driver costs: nothing that had landed. The same for a run in a folder and in a store."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from flows.cli import main
from pipeline import open_run
from pipeline.store.place.atomic import TEMPORARY
from pipeline.store.place.where import Place, found, relative
from tests.processes import Driver, busy_workers, wait_for
from tests.runs import items_of, score_files, toy_mapping


def some_seconds(output: Path, prompts: int) -> dict[str, Any]:
    """A config whose items take some hundred milliseconds."""
    return toy_mapping(
        output,
        tasks=[{"name": "induction", "count": prompts}],
        methods=[
            {"name": "eap_ig"},
            {"name": "acdc", "threshold": 0.01, "scope": "shard", "as": "acdc"},
            {"name": "edge_patching"},
        ],
        shards={"prompts": 32},
        cluster={"workers": 2},
        evaluate={"edge_fractions": [0.05, 1.0]},
    )


def contents(folder: Place) -> dict[str, bytes]:
    """Every file below a folder, by relative path; none that a killed writer had not yet given its name."""
    paths = (path for path in found(folder, "**/*") if TEMPORARY not in path.name)
    return {str(relative(path, folder)): path.read_bytes() for path in paths}


def kill_and_go_on(
    driver: Driver, drive: Callable[..., Driver], config: Path, run: Place, most: int
) -> set[str]:
    """Kills a driver whose workers are busy, at a gate that lets `most` files of scores through, and runs the same
    command again: it computes what was missing, once each. Returns the items that had landed."""
    wait_for(lambda: busy_workers(driver.pid))
    driver.kill()
    before = {path: path.stat().st_mtime_ns for path in score_files(run)}
    assert len(before) <= most
    done = {item.name for item in open_run(run).directory.done(rename=False)}

    code, err = drive("run", config, "--run-dir", run).finish()
    assert code == 0, err
    names = {item.name for item in open_run(run).directory.items}
    assert sorted(items_of(err)) == sorted(names - done), "only what was missing, once each"
    assert {path: path.stat().st_mtime_ns for path in before} == before
    return done


def assert_like_undisturbed(config: Path, run: Place, beside: Path, *names: str) -> None:
    """Files and folders of the run are the bytes of one that nothing happens to."""
    assert main(["run", str(config), "--run-dir", str(beside), "--local"]) == 0
    for name in names:
        if (beside / name).is_file():
            assert (run / name).read_bytes() == (beside / name).read_bytes(), name
        else:
            assert contents(run / name) == contents(beside / name) != {}, name
