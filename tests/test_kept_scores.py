"""A run that keeps every prompt's scores and draws a bootstrap from them, from config to frame."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from pipeline import RunConfig, discover, load_model, load_scores, open_run
from pipeline.core.errors import ConfigError
from pipeline.methods import Eap, EapIg, EdgePatching
from pipeline.schedule import make_plan, work_table
from pipeline.store.run import circuits
from tests.runs import score_files, toy_config

METHODS = [
    {"name": "eap"},
    {"name": "eap_ig", "steps": 2},
    {"name": "edge_patching"},
    {"name": "acdc", "threshold": 0.01, "scope": "shard", "as": "acdc"},
    {"name": "node_patching"},
]
KEPT = {"eap", "eap_ig-2", "edge_patching"}


def pairs(path):
    """Eight pairs of 4 and 7 tokens in turn, so that batches of one length are not in the prompts' order."""
    rows = []
    for i in range(8):
        clean = [(i + k) % 7 + 1 for k in range(4 if i % 2 else 7)]
        rows.append({"clean": clean, "corrupted": [*clean[:-1], 9], "answers": [1], "wrong_answers": [2]})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def config(folder, **changes) -> RunConfig:
    settings = {
        "tasks": [{"name": "file", "path": str(pairs(folder / "pairs.jsonl"))}],
        "methods": METHODS,
        "shards": {"prompts": 5},
        "cluster": {"batch_size": 2},
        "evaluate": {"edge_fractions": [0.1]},
        "store": {"prompt_scores": True},
    }
    return toy_config(folder, **settings | changes)


def go(a_config):
    events = []
    run = discover(a_config, local=True, on_event=events.append)
    return run, [(event.kind, event.text) for event in events]


def items(events):
    return {text for kind, text in events if kind == "item"}


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A complete run without a bootstrap, to be read only."""
    return go(config(tmp_path_factory.mktemp("kept")))[0]


def later(run, folder, **changes):
    """What happens when a copy of a run is asked for with other settings: the copy and the events."""
    shutil.copytree(run.path, folder / run.path.name)
    return go(config(folder, **changes))


@pytest.fixture(scope="module")
def drawn(kept, tmp_path_factory):
    """The run with a bootstrap that came later, to be read only; and what was done."""
    return later(kept, tmp_path_factory.mktemp("drawn"), aggregate={"bootstrap": 60})


def test_every_edge_method_that_scores_prompts_has_a_file_per_item(kept):
    files = {str(path.parent.relative_to(kept.path / "prompt_scores")) for path in score_files_of(kept)}
    assert files == {f"task=pairs/method={method}" for method in KEPT}
    assert len(score_files_of(kept)) == 2 * len(KEPT)
    assert kept.status()["complete"]


def score_files_of(run):
    return sorted(run.path.glob("prompt_scores/**/*.parquet"))


@pytest.mark.parametrize("method", [Eap(), EapIg(steps=2), EdgePatching()], ids=lambda m: m.id)
def test_a_prompts_row_is_the_score_of_that_prompt_alone(kept, method):
    model = load_model("toy:planted")
    frame = kept.prompt_scores(method.id)
    assert frame.index.tolist() == list(range(8))
    some = [0, 1, 6]  # of both shards and lengths
    prompts = list(kept.prompts("pairs"))
    alone = np.stack([method.score(model, [model.batch([prompts[i]])]).score for i in some])
    found = frame.to_numpy()
    np.testing.assert_allclose(found[some], alone, atol=2e-6 * np.abs(found).max())


@pytest.mark.parametrize("method", sorted(KEPT))
def test_the_rows_of_a_shard_have_the_shards_mean_and_spread(kept, method):
    rows = kept.prompt_scores(method)
    shards = load_scores(kept.path, level="shard", method=method)
    for shard, ids in ((0, range(5)), (1, range(5, 8))):
        own = shards[shards["shard"] == shard]
        part = rows.loc[list(ids)].to_numpy(np.float64)
        scale = np.abs(part).max()
        np.testing.assert_allclose(own["score"], part.mean(axis=0), atol=1e-6 * scale)
        np.testing.assert_allclose(own["score_std"], part.std(axis=0), atol=1e-6 * scale)


def test_merged_scores_have_an_interval_that_holds_them(drawn):
    frame = load_scores(drawn[0].path)
    has = frame["method"].isin(KEPT)
    assert frame.loc[~has, "boot_low"].isna().all()
    slack = 1e-6 * frame["score"].abs().max()
    assert (frame.loc[has, "boot_low"] <= frame.loc[has, "boot_high"]).all()
    inside = (frame["boot_low"] - slack <= frame["score"]) & (frame["score"] <= frame["boot_high"] + slack)
    assert inside[has].mean() > 0.99


def test_footers_name_every_library_device_and_type_that_the_numbers_depend_on(kept):
    footers = kept.footers()
    assert set(footers.device) == {"cpu"}
    assert set(footers.dtype) == {"float32"}
    for versions in footers.versions:
        assert {"python", "torch", "transformers", "accelerate", "numpy", "pyarrow"} <= set(
            json.loads(versions)
        )


# --- asked for later ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A complete run that keeps no prompt's scores, to be read only."""
    return go(config(tmp_path_factory.mktemp("plain"), store={}))[0]


@pytest.fixture
def without(plain, tmp_path):
    """A copy of it in this test's own folder."""
    return open_run(shutil.copytree(plain.path, tmp_path / plain.path.name))


@pytest.mark.slow
def test_asking_later_computes_those_items_again_and_the_same_scores(without, tmp_path):
    before = load_scores(without.path)
    assert before["sign_agreement"].isna().all(), "of single prompts nothing is known yet"
    asked = config(tmp_path)
    assert make_plan(asked).path == without.path, "it is the same run"
    _, events = go(asked)
    assert items(events) == {f"pairs/{method}/{shard}" for method in KEPT for shard in range(2)}
    after = load_scores(without.path)
    rest = [name for name in before if name != "sign_agreement"]
    pd.testing.assert_frame_equal(after[rest], before[rest])
    assert after.loc[after["method"] == "eap", "sign_agreement"].notna().any()
    assert not [text for kind, text in events if kind == "circuits"], "the scores are the same"
    assert go(asked)[1] == []
    assert go(config(tmp_path, store={}))[1] == []
    assert len(score_files_of(without)) == 6, "what is there stays"


@pytest.mark.slow
def test_only_named_methods_and_only_lost_files_are_computed(without, tmp_path):
    asked = config(tmp_path, store={"prompt_scores": ["eap"]})
    assert items(go(asked)[1]) == {"pairs/eap/0", "pairs/eap/1"}
    score_files_of(without)[1].unlink()
    times = {
        path: path.stat().st_mtime_ns for path in score_files(without.path) if "shard-00001" not in path.name
    }
    assert items(go(asked)[1]) == {"pairs/eap/1"}
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_a_bootstrap_that_comes_later_computes_and_evaluates_nothing_anew(kept, drawn, tmp_path):
    assert load_scores(kept.path)["boot_low"].isna().all()
    before = circuits.scores_digest(kept.path)
    for run, events in (drawn, later(kept, tmp_path, aggregate={"bootstrap": 60, "bootstrap_top": 20})):
        assert not items(events)
        assert not [text for kind, text in events if kind == "circuits"]
        assert circuits.scores_digest(run.path) == before
    assert (boot_low(drawn[0]) > 20).all()
    assert (boot_low(run) == 20).all()


def boot_low(run):
    """How many edges have an interval, by method."""
    return load_scores(run.path).groupby("method", observed=True)["boot_low"].count().loc[sorted(KEPT)]


# --- planned -----------------------------------------------------------------------------------------------


def test_the_plan_counts_their_bytes(tmp_path):
    def plan(**store):
        return make_plan(config(tmp_path, store=store))

    edges = plan().graph.n_edges
    assert plan(prompt_scores=True).to_dict()["prompt_score_bytes"] == 3 * 8 * (8 + 4 * edges)
    half = plan(prompt_scores=["eap"], dtype="float16")
    assert half.to_dict()["prompt_score_bytes"] == 8 * (8 + 2 * edges)
    assert {row["method"]: row["prompt_score_bytes"] for row in work_table(half)}["edge_patching"] == 0
    assert plan().to_dict()["prompt_score_bytes"] == 0
    assert plan(prompt_scores=True).memory_bytes > plan().memory_bytes


def test_the_files_are_no_larger_than_planned(kept):
    planned = kept.directory.plan["prompt_score_bytes"]
    footers = 8_000 * len(score_files_of(kept))
    assert planned * 0.5 < kept.status()["prompt_scores"]["bytes"] < planned + footers


def test_they_are_no_part_of_any_key(tmp_path):
    plain, asked = (
        make_plan(config(tmp_path, store={})),
        make_plan(config(tmp_path, aggregate={"bootstrap": 60})),
    )
    assert plain.run_key == asked.run_key
    assert plain.item_keys == asked.item_keys


def test_a_bootstrap_of_too_many_edges_is_refused_unless_it_is_of_the_strongest(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.schedule.make.MOST_EDGES", 100)
    with pytest.raises(ConfigError, match=r"262 edges are more than 100; set aggregate\.bootstrap_top"):
        make_plan(config(tmp_path, aggregate={"bootstrap": 60}))
    assert make_plan(config(tmp_path, aggregate={"bootstrap": 60, "bootstrap_top": 50})).items
    assert make_plan(config(tmp_path)).items


@pytest.mark.slow
def test_a_run_of_an_older_kind_reads_as_one_that_keeps_nothing(without):
    plan = json.loads((without.path / "plan.json").read_text())
    del plan["prompt_scores"], plan["prompt_score_bytes"]
    (without.path / "plan.json").write_text(json.dumps(plan))
    assert open_run(without.path).status()["complete"]
    assert open_run(without.path).status()["prompt_scores"]["methods"] == []
