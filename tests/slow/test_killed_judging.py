"""Killed while what is known is judged: by several rules, on another run's prompts, or of a file of somebody else's."""

import os
import shutil
from pathlib import Path

import pytest
import yaml

from flows.cli import main
from pipeline import RunConfig, discover
from pipeline.store.place.where import found
from pipeline.store.run.evaluations import write_values
from pipeline.store.run.run_dir import RunDirectory
from tests.processes import Driver, descendants, title, wait_for
from tests.runs import score_files, toy_config, toy_mapping
from tests.slow.survival import contents

pytestmark = pytest.mark.slow

if not Path("/proc/self/stat").exists():
    pytest.skip("finds workers in /proc", allow_module_level=True)

# A command that is killed by itself as soon as so many files of evaluations are written.
DYING = """
import os, signal, sys
from pipeline.workers import execute
write, files = execute.write_values, []
def dying(*args):
    write(*args)
    files.append(args[0])
    if len(files) == {most}:
        os.kill(os.getpid(), signal.SIGKILL)
execute.write_values = dying
from flows.cli import main
sys.exit(main())
"""

# A driver of workers elsewhere that is killed by itself as soon as it has heard of so much of a kind.
DYING_DRIVER = """
import os, signal, sys
from pipeline import RunConfig, discover
heard = []
def on_event(event):
    heard.extend([event] if event.kind == {kind!r} and {of!r} in event.text else [])
    if len(heard) == {most}:
        os.kill(os.getpid(), signal.SIGKILL)
config, run, *file = sys.argv[1:]
config = RunConfig.load(config)
discover(config.with_file(*file, circuit=False, alone=False) if file else config, on_event=on_event, run_dir=run)
"""


@pytest.fixture
def computed(monkeypatch):
    """The items and files of evaluations that this process computes, in order."""
    seen, commit = [], RunDirectory.commit

    def committing(self, item, *args):
        seen.append(str(self.path / item.name))
        return commit(self, item, *args)

    def writing(path, *args):
        seen.append(str(path))
        return write_values(path, *args)

    monkeypatch.setattr(RunDirectory, "commit", committing)
    monkeypatch.setattr("pipeline.workers.execute.write_values", writing)
    return seen


def killed(tmp_path, code, *argv, **env):
    driver = Driver(tmp_path / "driver.log", *argv, code=code, env=os.environ | env)
    assert driver.finish()[0] == -9, driver.log.read_text()


def killed_with_workers(tmp_path, *argv, kind, most, of=""):
    """A driver of `workers_elsewhere` is killed; returns when its workers are gone too."""
    killed(tmp_path, DYING_DRIVER.format(kind=kind, of=of, most=most), *argv, RAY_AUTH_MODE="disabled")
    wait_for(lambda: not any(title(pid).startswith("ray::Worker") for pid in descendants(os.getpid())))


def workers_elsewhere(tmp_path, shards, **changes):
    """The file of a config of so many shards for two workers of the Ray of this process."""
    import ray

    mapping = toy_mapping(
        tmp_path / "results",
        tasks=[{"name": "induction", "count": 4 * shards}],
        cluster={"workers": 2, "address": ray.get_runtime_context().gcs_address},
        **changes,
    )
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(mapping))
    return config


def assert_like_undisturbed(config, run, beside):
    """Whatever was found is the bytes of a run that nothing happens to; scores are, but for how long they took."""
    undisturbed = discover(config, local=True, quiet=True, run_dir=beside).path
    assert contents(run / "scores").keys() == contents(undisturbed / "scores").keys() != set()
    for name in ("evaluations", "aggregate"):
        assert contents(run / name) == contents(undisturbed / name) != {}, name
    assert (run / "faithfulness.parquet").read_bytes() == (undisturbed / "faithfulness.parquet").read_bytes()


def evaluated(*runs):
    return {
        str(path): (path.read_bytes(), path.stat().st_mtime_ns)
        for run in runs
        for path in found(run / "evaluations", "**/*.parquet")
    }


def test_a_transfer_by_several_rules_goes_on_with_the_rule_at_which_it_was(tmp_path, computed, capsys):
    def config(name, count):
        return toy_config(
            tmp_path / "runs",
            name=name,
            tasks=[{"name": "induction", "count": count}],
            methods=["eap"],
            shards={"prompts": 8},
            evaluate={"edge_fractions": [0.05], "rank": ["absolute", "signed", "greedy"]},
        )

    runs = [discover(config(*one), local=True, quiet=True).path for one in (("one", 8), ("other", 16))]
    shutil.copytree(tmp_path / "runs", tmp_path / "beside")
    killed(tmp_path, DYING.format(most=5), "compare", *runs, "--transfer", "--local")

    def transfers(folder):
        return sorted(folder.glob("transfer-*"))

    before = evaluated(*transfers(tmp_path / "runs"))
    items = {
        str(path / item.name)
        for path in transfers(tmp_path / "runs")
        for item in RunDirectory.open(path).done(rename=False)
    }
    assert len(before) == 5, "three rules of one shard of the first direction, and two of the next shard"
    computed.clear()
    assert main(["compare", *map(str, runs), "--transfer", "--local", "--json"]) == 0
    there = capsys.readouterr().out
    assert len(computed) == len({*computed}), "nothing twice"
    assert not {*computed} & (before.keys() | items), "nor again"
    after = evaluated(*transfers(tmp_path / "runs"))
    assert {*computed} >= after.keys() - before.keys(), "the third rule, and the other direction"
    assert len(after) == 3 * (2 + 1)
    assert {path: after[path] for path in before} == before
    others = [tmp_path / "beside" / path.name for path in runs]
    assert main(["compare", *map(str, others), "--transfer", "--local", "--json"]) == 0
    assert capsys.readouterr().out.replace("/beside/", "/runs/") == there
    for mine, theirs in zip(transfers(tmp_path / "runs"), transfers(tmp_path / "beside"), strict=True):
        assert mine.name == theirs.name
        for name in ("evaluations", "circuits", "aggregate"):
            assert contents(mine / name) == contents(theirs / name) != {}, name
        assert (mine / "faithfulness.parquet").read_bytes() == (theirs / "faithfulness.parquet").read_bytes()


def test_what_somebody_else_found_is_judged_by_two_workers_and_once_each(tmp_path, ray_session, computed):
    shards, file, run = 16, tmp_path / "theirs.json", tmp_path / "disturbed"
    file.write_text('{"MLP 0->MLP 1": 0.5, "Resid Start->MLP 0": -0.25, "A0.1->Resid End": 2}')
    config = workers_elsewhere(
        tmp_path, shards, methods=["eap"], evaluate={"edge_fractions": [0.004, 0.008, 0.5]}
    )
    killed_with_workers(tmp_path, config, run, file, kind="circuits", most=3)
    before = evaluated(run)
    assert 3 <= len(before) < shards
    assert main(["import", str(file), str(config), "--run-dir", str(run), "--local", "--quiet"]) == 0
    assert len(computed) == len({*computed})
    assert {*computed} == {*evaluated(run)} - {*before}
    assert {path: evaluated(run)[path] for path in before} == before
    asked = RunConfig.load(config).with_file(str(file), circuit=False, alone=False)
    assert_like_undisturbed(asked, run, tmp_path / "undisturbed")


@pytest.mark.parametrize(
    ("kind", "of", "most"),
    [
        ("circuits", "", 3),
        pytest.param("item", "/ensemble", 1, marks=pytest.mark.long),
    ],
)
def test_an_ensemble_judged_by_several_rules_goes_on_under_ray_where_it_was(
    tmp_path, ray_session, kind, of, most
):
    """Killed with a part of the circuits run, or of the ensemble there, and ended by other workers."""
    shards, run = 8, tmp_path / "disturbed"
    config = workers_elsewhere(
        tmp_path,
        shards,
        methods=["eap", {"name": "eap_ig", "as": "eap_ig"}, {"name": "ensemble", "of": ["eap", "eap_ig"]}],
        evaluate={"edge_fractions": [0.05], "rank": ["absolute", "signed"]},
    )
    killed_with_workers(tmp_path, config, run, kind=kind, of=of, most=most)
    scores = {path: path.stat().st_mtime_ns for path in score_files(run)}
    before, heard = evaluated(run), []
    assert len(scores) == 3 * shards if kind == "circuits" else 2 * shards < len(scores) < 3 * shards
    assert 2 * most <= len(before) < 2 * shards if kind == "circuits" else not before
    discover(RunConfig.load(config), on_event=heard.append, run_dir=run)
    assert {path: path.stat().st_mtime_ns for path in scores} == scores
    after = evaluated(run)
    assert {path: after[path] for path in before} == before
    again = [event.text for event in heard if event.kind == "circuits"]
    left = {Path(path).name[: len("shard-00000")] for path in after.keys() - before.keys()}
    assert len(again) == len({*again}) == len(left), "a shard at a time, by both rules"
    assert len([event for event in heard if event.kind == "item"]) == 3 * shards - len(scores)
    assert_like_undisturbed(RunConfig.load(config), run, tmp_path / "undisturbed")
