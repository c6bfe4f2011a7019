"""What there is to show of a run that was stopped, and what becomes of it when it goes on."""

import json
import warnings

import pytest

from flows.cli import main
from pipeline import discover, load_scores, open_run
from pipeline.core.errors import ModelError
from pipeline.core.results import NODE_SCORES
from pipeline.schedule import make_plan
from pipeline.schedule.conduct import LAST_SECONDS
from pipeline.store.run.aggregate import aggregate_in_time, merged_path
from pipeline.store.run.files import read_footer
from pipeline.store.run.opened import PartialScoresWarning
from tests.runs import content, toy_config

METHODS = [{"name": "eap"}, {"name": "node_patching"}]


def stop_after(n_items, error=KeyboardInterrupt):
    def hear(event):
        if event.kind == "item" and event.done == n_items:
            raise error

    return hear


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return discover(toy_config(tmp_path_factory.mktemp("undisturbed"), methods=METHODS), local=True)


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt, pytest.param(ModelError("the worker's model"), marks=pytest.mark.slow)]
)
def test_a_run_that_is_stopped_before_its_last_item_can_be_shown(tmp_path, undisturbed, error, capsys):
    config = toy_config(tmp_path, methods=METHODS)
    *_, last = [item for item in make_plan(config).items if item.kind == "node_scores"]
    with pytest.raises(error if isinstance(error, type) else type(error)):
        discover(config, local=True, on_event=stop_after(len(undisturbed.directory.items) - 1, error))
    run = open_run(make_plan(config).path)
    assert not run.is_complete
    merged = run.path / merged_path(NODE_SCORES, "induction", "node_patching")
    assert json.loads(read_footer(merged)["missing"]) == [last.name]

    assert main(["show", str(run.path)]) == 0
    said = capsys.readouterr().out
    assert "INCOMPLETE" in said
    assert "8 prompts in 2 shards, PARTIAL: 1 items missing" in " ".join(said.split())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "missing" not in load_scores(run.path, method="eap").attrs, "nothing of it is missing"
    with pytest.warns(PartialScoresWarning, match="1 items are missing"):
        frame = load_scores(run.path, method="node_patching")
    assert frame.attrs["missing"] == [last.name]
    assert set(frame.n_prompts.dropna()) == {8}

    assert discover(config, local=True).is_complete
    for name in ("aggregate", "node_aggregate", "circuits"):
        assert content(run.path / name) == content(undisturbed.path / name) != {}
    for name in ("faithfulness.parquet", "report.html", "_SUCCESS.json", "manifest.json", "plan.json"):
        assert (run.path / name).read_bytes() == (undisturbed.path / name).read_bytes(), name


def test_merging_what_is_there_takes_no_longer_than_it_may(tmp_path):
    config = toy_config(tmp_path, methods=METHODS)
    with pytest.raises(KeyboardInterrupt):
        discover(config, local=True, on_event=stop_after(1))
    run = open_run(make_plan(config).path)
    before = content(run.path)
    aggregate_in_time(run.directory, -1.0)
    assert content(run.path) == before
    assert 0 < LAST_SECONDS < 30


def test_nothing_is_merged_of_a_run_without_items(tmp_path):
    config = toy_config(tmp_path, methods=METHODS)

    def hear(event):
        if event.kind == "begin":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        discover(config, local=True, on_event=hear)
    assert not (make_plan(config).path / "aggregate").exists()
