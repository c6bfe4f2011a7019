"""Running again: what is computed once more, what is added to a run, and what is refused."""

import shutil
from contextlib import closing

import numpy as np
import pytest

from pipeline import load_scores, open_run
from pipeline.core.errors import ConfigError, RunDirectoryError
from pipeline.schedule import make_plan
from pipeline.schedule.preparing import prepare
from tests.listening import broken_off, go
from tests.runs import content, flip_a_byte, score_files, toy_config


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return go(toy_config(tmp_path_factory.mktemp("original")))[0]


@pytest.fixture
def run(original, tmp_path):
    """A complete run in this test's own folder."""
    return open_run(shutil.copytree(original.path, tmp_path / original.path.name))


def test_a_finished_run_has_nothing_left_to_do(run, tmp_path):
    before = content(run.path)
    again, listener = go(toy_config(tmp_path))
    assert again.path == run.path
    assert listener == []
    changed = {name for name, digest in content(run.path).items() if before.get(name) != digest}
    assert changed <= {"run.yaml"}, "which names the folder"


def test_only_missing_items_are_computed_and_the_aggregate_is_the_same(run, tmp_path):
    before = content(run.path / "aggregate")
    lost = score_files(run.path)[1::2]
    kept = {path: path.stat().st_mtime_ns for path in score_files(run.path)[::2]}
    for path in lost:
        path.unlink()
    _, listener = go(toy_config(tmp_path))
    assert len(listener.names("item")) == len(lost) == 3
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert content(run.path / "aggregate") == before


def test_a_truncated_and_a_flipped_file_are_computed_again(run, tmp_path):
    before = content(run.path / "aggregate")
    truncated, flipped, *_ = score_files(run.path)
    truncated.write_bytes(truncated.read_bytes()[:-30])
    flip_a_byte(flipped)
    _, listener = go(toy_config(tmp_path))
    assert len(listener.names("item")) == 2
    assert content(run.path / "aggregate") == before
    assert open_run(run.path).status()["complete"]
    assert len(list(run.path.glob("scores/**/_bad-*"))) == 2


def test_other_settings_of_the_evaluation_are_evaluated_without_new_items(run, tmp_path):
    again, listener = go(toy_config(tmp_path, evaluate={"edge_fractions": [0.25]}))
    assert again.path == run.path
    assert listener.names("item") == []
    assert listener.names("circuits")
    table = again.faithfulness()
    assert list(table[table.method == "eap"].edge_fraction) == [0.25]
    assert not (run.path / "circuits" / "induction--eap--0.05.json").exists()


def test_another_config_gets_another_directory(run, tmp_path):
    other = make_plan(toy_config(tmp_path, seed=1))
    assert other.path != run.path


def test_a_directory_of_another_config_is_refused(run, tmp_path):
    before = content(run.path)
    with pytest.raises(RunDirectoryError, match="holds another run"):
        go(toy_config(tmp_path, seed=1), run_dir=run.path)
    assert content(run.path) == before


def test_a_run_is_extended_by_what_it_lacks(run, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in score_files(run.path)}
    methods = [{"name": "eap"}, {"name": "eap_ig"}]
    extended, listener = go(toy_config(tmp_path, methods=methods), extend=run.path)
    assert extended.path == run.path
    assert set(listener.names("item")) == {f"induction/eap_ig/{shard}" for shard in range(3)}
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert set(extended.faithfulness().method) == {"eap", "acdc", "eap_ig"}
    again, listener = go(toy_config(tmp_path), run_dir=run.path)
    assert listener == [], "the config it began with continues the whole of it"
    assert set(again.methods) == {"eap", "acdc", "eap_ig"}


@pytest.mark.slow
def test_the_first_config_continues_an_extended_run_with_its_own_settings(run, tmp_path):
    more = toy_config(tmp_path, methods=[{"name": "edge_patching"}])
    go(more, extend=run.path)
    again, listener = go(toy_config(tmp_path, evaluate={"edge_fractions": [0.25]}))
    assert again.path == run.path
    assert listener.names("item") == []
    table = again.faithfulness().dropna(subset="edge_fraction")
    assert set(table["method"]) == {"eap", "edge_patching"}
    assert set(table["edge_fraction"]) == {0.25}
    assert open_run(run.path).config["evaluate"]["edge_fractions"] == [0.25]


def test_an_extension_must_agree_with_the_run(run, tmp_path):
    with pytest.raises(ConfigError, match="seed"):
        go(toy_config(tmp_path, seed=1), extend=run.path)


def test_a_live_run_is_left_alone(tmp_path):
    with closing(prepare(toy_config(tmp_path))) as session:
        with pytest.raises(RunDirectoryError, match="in use by process"):
            prepare(toy_config(tmp_path))
        assert not score_files(session.path)
    prepare(toy_config(tmp_path)).close()


def test_workers_share_no_state_with_the_size_of_their_batches(run, tmp_path):
    """Scores of methods that average over prompts do not depend on batch and shard size."""
    methods, cluster = [{"name": "eap"}], {"batch_size": 5}
    config = toy_config(tmp_path, methods=methods, shards={"prompts": 12}, cluster=cluster)
    other, _ = go(config)
    a, b = (load_scores(path, method="eap").score.to_numpy() for path in (run.path, other.path))
    assert a == pytest.approx(b, abs=1e-6 * np.abs(a).max())


def test_a_run_that_ends_while_it_evaluates_goes_on_with_the_shards_that_are_left(run, tmp_path):
    before = content(run.path / "circuits")
    settings = {"edge_fractions": [0.05, 0.25, 1.0]}
    done = broken_off(toy_config(tmp_path, evaluate=settings), lambda names: len(names) == 2)
    kept = content(run.path / "evaluations")
    again, listener = go(toy_config(tmp_path, evaluate=settings))
    shards = [f"induction/evaluation=faithfulness/{shard}" for shard in range(3)]
    assert (done, listener.names("circuits")) == (shards[:1], shards[1:])
    after = content(run.path / "evaluations")
    assert after["task=induction/shard-00000.parquet"] == kept["task=induction/shard-00000.parquet"]
    assert again.is_complete
    assert content(run.path / "circuits") != before
