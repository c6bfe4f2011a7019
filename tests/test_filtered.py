"""Runs that keep the prompts which the model gets right: as if there were no others, whatever is stopped and lost."""

import json
import shutil

import numpy as np
import pytest

from flows.printing import show_facts
from pipeline import open_run
from pipeline.schedule import make_plan
from pipeline.verify import verify
from tests.listening import go
from tests.runs import content, score_files, toy_config

METHODS = [
    {"name": "eap"},
    {"name": "eap", "ablation": "mean", "as": "mean"},
    {"name": "acdc", "threshold": 0.01},
    {"name": "acdc", "threshold": 0.01, "scope": "shard", "as": "by-shard"},
    {"name": "node_patching"},
]
KEPT = {"prompt_scores": ["eap"]}


def rows(right):
    """Repeated tokens with what follows, or with something else, as the answer: the model knows the first."""
    made = []
    for i, good in enumerate(right):
        a, b, c = 1 + i % 7, 9 + i % 5, 15 + i % 3
        answer, wrong = (b, c) if good else (c, b)
        clean, corrupted = [a, b, c, a], [a, b, c, 20]
        made.append({"clean": clean, "corrupted": corrupted, "answers": [answer], "wrong_answers": [wrong]})
    return made


def config_of(folder, right, **changes):
    folder.mkdir(exist_ok=True)
    path = folder / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows(right)))
    task = {"name": "file", "path": str(path)} | changes.pop("task", {"filter": "correct"})
    mapping = {"tasks": [task], "methods": METHODS, "shards": {"prompts": 2}} | changes
    return toy_config(folder, **mapping)


RIGHT = (True, False, False, False, True, True, True)  # the second of the shards keeps none


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return go(config_of(tmp_path_factory.mktemp("filtered"), RIGHT, store=KEPT))[0]


@pytest.fixture
def run(original, tmp_path):
    return open_run(shutil.copytree(original.path, tmp_path / original.path.name))


def test_what_is_left_out_has_a_row_with_the_reason_and_is_counted(run):
    table = run.filtered("mine")
    assert table["kept"].tolist() == list(RIGHT)
    assert set(table["reason"][~table["kept"]]) == {"a wrong answer is likelier"}
    assert table["reason"][table["kept"]].isna().all()
    expected = {"mine": {"kept": 4, "of": 7, "all": 7}}
    assert json.loads((run.path / "manifest.json").read_text())["filtered"] == expected
    assert show_facts(run, None, None, 3)["filtered"] == expected
    assert len(run.baseline("mine")["prompt_id"].unique()) == 4
    assert run.status()["complete"]
    assert verify(run.path).damaged == ()


def test_scores_and_circuits_are_those_of_the_prompts_that_are_kept(original, tmp_path):
    plain = config_of(tmp_path / "plain", [True] * 7, task={}, shards={"prompts": 7})
    chosen = [row for row, good in zip(rows(RIGHT), RIGHT, strict=True) if good]
    path = tmp_path / "plain" / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in chosen))
    alone, _ = go(plain)
    for method in ("eap", "mean", "acdc"):
        found, expected = (one.scores(method=method) for one in (original, alone))
        np.testing.assert_allclose(found["score"], expected["score"], rtol=0, atol=1e-6)
        assert set(found["n_prompts"]) <= {4, 0}
    found, expected = (one.faithfulness() for one in (original, alone))
    some = found["method"].isin(["eap", "mean", "acdc"])
    kept = expected["method"].isin(["eap", "mean", "acdc"])
    np.testing.assert_allclose(found[some]["metric_full"], expected[kept]["metric_full"], atol=1e-6)


def test_the_scores_of_single_prompts_are_those_of_all_that_are_kept(run):
    rows = run.rows_of_prompts("eap", "mine")
    assert len(rows) == 4
    found = np.concatenate(list(rows.blocks()))
    assert found.shape == (4, run.graph.n_edges)
    np.testing.assert_allclose(found.mean(axis=0), run.scores("eap")["score"], rtol=0, atol=1e-6)


def test_whatever_is_lost_comes_back_to_the_last_byte(run, tmp_path):
    before, kept = content(run.path / "aggregate"), run.filtered("mine")
    manifest = (run.path / "manifest.json").read_bytes()
    for path in (*score_files(run.path)[::2], *sorted((run.path / "filtered").rglob("*.parquet"))[1::2]):
        path.unlink()
    again, _ = go(config_of(tmp_path, RIGHT, store=KEPT), run_dir=run.path)
    assert content(again.path / "aggregate") == before
    assert again.filtered("mine").equals(kept)
    assert (again.path / "manifest.json").read_bytes() == manifest


@pytest.mark.slow
def test_an_extended_run_does_not_look_again(run, tmp_path):
    more = config_of(tmp_path, RIGHT, methods=[{"name": "eap_ig"}])
    again, listener = go(more, extend=run.path)
    assert "eap_ig" in again.methods
    assert not [name for name in listener.names("item") if "filtered" in name]


def test_a_plan_counts_all_prompts_and_only_runs_that_filter_have_another_key(tmp_path):
    plain, kept = (make_plan(config_of(tmp_path, RIGHT, task=task)) for task in ({}, {"filter": "correct"}))
    assert plain.run_key != kept.run_key
    assert "filter" not in json.dumps(plain.identity)
    assert kept.work["mine", "baseline"].prompts == 7
    assert kept.work["mine", "filtered"].cost.forward_passes == 7


def test_a_task_of_which_the_model_gets_nothing_right_says_so(tmp_path):
    run, listener = go(config_of(tmp_path, [False] * 3, methods=METHODS[:3]))
    failed = [event.text for event in listener if event.kind == "failed"]
    assert len(failed) == 2
    assert all(
        "filter: correct keeps no prompt, for the model gets all of them wrong" in text for text in failed
    )
    assert not run.status()["complete"]
