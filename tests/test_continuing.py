"""What a run takes over from one that was stopped, or whose files went away, at an unlucky moment."""

import os
import shutil
from contextlib import closing

import pandas as pd
import pytest

import pipeline.workers.execute as execute_module
from pipeline import RunConfig, discover, open_run
from pipeline.core.errors import ModelError, RunDirectoryError
from pipeline.models.toy import toy_path
from pipeline.schedule import make_plan
from pipeline.schedule.conduct import conduct
from pipeline.schedule.pools import open_pool
from pipeline.schedule.preparing import prepare
from pipeline.store.run import planned
from tests.runs import content, flip_a_byte, score_files, toy_config
from tests.slowly import slow

EAP = [{"name": "eap"}]


class KilledError(BaseException):
    """As kill -9, as far as files go: nothing is done after it."""


def go(config, **options):
    events = []
    run = discover(config, local=True, on_event=events.append, **options)
    return run, [event.text.split()[0] for event in events if event.kind == "item"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A complete run of EAP, to be read only."""
    return go(toy_config(tmp_path_factory.mktemp("undisturbed"), methods=EAP))[0]


@pytest.fixture
def complete(undisturbed, tmp_path):
    """A copy of it in this test's own folder."""
    return open_run(shutil.copytree(undisturbed.path, tmp_path / undisturbed.path.name))


@pytest.mark.parametrize("kind", ["scores", *slow("prompt_metrics")])
def test_a_file_that_goes_away_during_the_run_is_computed_again(undisturbed, tmp_path, kind):
    config = toy_config(tmp_path, methods=EAP)
    gone = []

    def lose_one(event):
        if event.text == "aggregate" and not gone:
            gone.extend(sorted(tmp_path.glob(f"*/{kind}/**/*.parquet"))[:1])
            gone[0].unlink()

    run = discover(config, local=True, on_event=lose_one)
    assert gone[0].exists()
    assert run.status()["complete"]
    assert content(run.path / "aggregate") == content(undisturbed.path / "aggregate")


def test_faithfulness_is_of_all_prompts_once_a_baseline_that_had_failed_is_there(
    undisturbed, tmp_path, monkeypatch
):
    real, broken = execute_module._baseline, {"is": True}

    def baseline(model, batches, metrics):
        if broken["is"] and 0 in batches[0].prompt_ids:
            raise OSError(5, "Input/output error")
        return real(model, batches, metrics)

    monkeypatch.setattr(execute_module, "_baseline", baseline)
    config = toy_config(tmp_path, methods=EAP, failures={"retries": 0, "tolerate": 1.0})
    run, _ = go(config)
    assert run.status()["missing"] == 1
    broken["is"] = False
    run, items = go(config)
    assert (items, run.status()["complete"]) == (["induction/baseline/0"], True)
    pd.testing.assert_frame_equal(run.faithfulness(), undisturbed.faithfulness())


def test_a_report_is_drawn_again_where_the_run_was_stopped_before_it(complete, tmp_path, monkeypatch):
    config = toy_config(tmp_path, methods=EAP, evaluate={"edge_fractions": [0.25]})

    def killed(*_):
        raise KilledError

    monkeypatch.setattr("pipeline.schedule.conduct.report", killed)
    with pytest.raises(KilledError):
        go(config)
    monkeypatch.undo()
    run, _ = go(config)
    undisturbed, _ = go(config, run_dir=tmp_path / "undisturbed" / run.path.name)
    ours, theirs = ((r.path / "report.html").read_text() for r in (run, undisturbed))
    assert ours == theirs


@pytest.mark.parametrize("name", [*slow("run.yaml", "plan.json"), "manifest.json"])
@pytest.mark.parametrize("command", ["resume", *slow("first config", "extend")])
def test_an_extension_that_is_killed_between_two_files_goes_on(
    complete, tmp_path, monkeypatch, name, command
):
    first, run = toy_config(tmp_path, methods=EAP), complete
    second = toy_config(tmp_path, methods=[{"name": "eap_ig"}], tasks=[{"name": "induction", "count": 12}])
    before = {path: path.read_bytes() for path in score_files(run.path)}

    def stopping(write):
        def stop_before(path, *args):
            if path.name == name:
                raise KilledError
            return write(path, *args)

        return stop_before

    for write in (planned.write_atomic, planned.write_json):
        monkeypatch.setattr(planned, write.__name__, stopping(write))
    with pytest.raises(KilledError):
        go(second, extend=run.path)
    monkeypatch.undo()
    if command == "resume":
        again, _ = go(RunConfig.resumed(run.path), run_dir=run.path)
    elif command == "extend":
        again, _ = go(second, extend=run.path)
    else:
        again, _ = go(first)
    assert again.status()["complete"]
    assert {path: path.read_bytes() for path in before} == before


def test_nothing_is_touched_in_a_folder_that_is_no_run(tmp_path):
    mine = tmp_path / "home" / "mail" / ".draft.tmp-1"
    mine.parent.mkdir(parents=True)
    for path in (mine, tmp_path / "home" / "thesis.tex"):
        path.write_text("years of work")
        os.utime(path, (0, 0))
    before = content(tmp_path)
    with pytest.raises(RunDirectoryError, match="is no run directory"):
        prepare(toy_config(tmp_path, methods=EAP), tmp_path / "home")
    assert content(tmp_path) == before


def test_weights_that_change_while_a_run_is_under_way_are_refused_by_the_next_worker(tmp_path):
    folder = shutil.copytree(toy_path("toy:planted"), tmp_path / "model")
    config = toy_config(tmp_path, methods=EAP, model={"name": str(folder)})
    with closing(prepare(config)) as session:
        flip_a_byte(folder / "model.safetensors", at=0.9)
        with (
            pytest.raises(ModelError, match="not the one that the run was planned with"),
            closing(open_pool(session, local=True)) as pool,
        ):
            conduct(session, pool)
    assert not score_files(session.path)


@pytest.mark.parametrize("scope", [*slow("shard"), "pooled"])
@pytest.mark.parametrize("goes", [shutil.rmtree, *slow(lambda path: path.rename(path.with_name("moved")))])
def test_a_directory_that_goes_away_ends_the_run_and_is_not_made_again(tmp_path, goes, scope):
    config = toy_config(tmp_path, methods=[{"name": "acdc", "scope": scope}])
    path = make_plan(config).path

    def go_away(event):
        if event.kind == "item" and path.exists():
            goes(path)

    with pytest.raises(RunDirectoryError, match="was moved or removed"):
        discover(config, local=True, on_event=go_away)
    assert not path.exists()
    assert go(config)[0].status()["complete"], "a new one"
