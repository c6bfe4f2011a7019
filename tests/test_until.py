"""Prompts are added until circuits are stable: why a run stops, that it is the run of so many prompts, and that it is
whatever is killed."""

import json
import shutil
from contextlib import closing

import numpy as np
import pytest

from pipeline import discover, open_run
from pipeline.core.errors import ConfigError
from pipeline.schedule import make_plan
from pipeline.schedule.preparing import prepare
from pipeline.schedule.until import grow
from pipeline.store.run.limits import read_limits
from pipeline.verify import verify
from tests.runs import content, flip_a_byte, toy_config
from tests.slowly import slow

# Of six shards' prompts the strongest edges are .96 alike, of fewer at most .87: far from the bar on either side. The
# model is one whose every edge does something; of a planted one all but a few scores are rounding.
NOISY = {
    "model": {"name": "toy:trained"},
    "methods": [{"name": "eap"}],
    "shards": {"prompts": 4},
    "store": {"prompt_scores": True},
    "evaluate": {"edge_fractions": [0.05, 1.0]},
}
UNTIL = {"stability": 0.92, "max_prompts": 40, "fraction": 0.05, "resamples": 20}


def config_of(folder, count=4, **changes):
    tasks = {"tasks": [{"name": "induction", "count": count, "seed": 1, "as": "induction"}]}
    return toy_config(folder, **(NOISY | tasks | changes))


def go(config):
    events = []
    return discover(config, local=True, on_event=events.append), events


def decided(run):
    return json.loads((run.path / "until.json").read_text())["tasks"]["induction"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return go(config_of(tmp_path_factory.mktemp("until"), until=UNTIL))[0]


@pytest.fixture(scope="module")
def plain(run, tmp_path_factory):
    """The run that was asked for just so many prompts."""
    return go(config_of(tmp_path_factory.mktemp("plain"), count=decided(run)["prompts"]))[0]


def test_it_stops_at_the_first_number_of_shards_whose_circuits_are_stable(run):
    from pipeline.evaluation.resamples import bootstrap, overlap_of

    found, rows = decided(run), run.prompt_scores("eap").to_numpy()
    size = int(0.05 * run.graph.n_edges)
    seen = {
        shards: overlap_of(bootstrap(run.graph, rows[: 4 * shards], size, "absolute", 20, 0), 0).mean
        for shards in range(1, found["shards"] + 1)
    }
    assert 1 < found["shards"] < 10, seen
    assert [shards for shards, one in seen.items() if one >= 0.92] == [found["shards"]]
    assert found["why"] == "stable"
    assert found["overlap"]["eap"] == pytest.approx(seen[found["shards"]])
    assert run.is_complete
    assert verify(run.path).damaged == ()


def test_it_is_the_run_of_that_many_prompts(run, plain):
    assert len(run.prompts("induction")) == len(plain.prompts("induction")) == decided(run)["prompts"]
    assert [item.name for item in run.directory.items] == [item.name for item in plain.directory.items]
    for level in ("aggregate", "shard"):
        assert run.scores(level=level).equals(plain.scores(level=level))
    assert run.prompt_scores("eap").equals(plain.prompt_scores("eap"))
    assert run.faithfulness().equals(plain.faithfulness())
    assert run.missing_from("eap", "induction") == ()


@pytest.mark.slow
def test_an_ablation_by_the_mean_takes_that_of_all_prompts_that_there_may_be(tmp_path):
    """What is there when it stops is the beginning of the run of all of them: lifting the limit keeps every file."""
    methods = {"methods": [{"name": "eap", "ablation": "mean"}], "evaluate": {"edge_fractions": [0.05]}}
    config = config_of(tmp_path / "few", until=UNTIL | {"stability": 0.5, "max_prompts": 24}, **methods)
    few, _ = go(config)
    assert decided(few)["why"] == "stable"
    assert decided(few)["prompts"] < 24
    every, _ = go(config_of(tmp_path / "every", count=24, **methods))
    assert few.path.name == every.path.name
    mine, all_ = (one.directory.statistics("induction") for one in (few, every))
    assert mine["count"].sum() == all_["count"].sum()
    assert all(np.array_equal(mine[name], all_[name]) for name in all_)
    shards = few.scores(level="shard")
    theirs = every.scores(level="shard")
    theirs = theirs[theirs["shard"].isin(shards["shard"])].reset_index(drop=True)
    assert shards.equals(theirs)
    times = {path: path.stat().st_mtime_ns for path in (few.path / "scores").rglob("*.parquet")}
    lifted, _ = go(config_of(tmp_path / "few", count=24, **methods))
    assert lifted.path == few.path
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert content(lifted.path / "aggregate") == content(every.path / "aggregate")


def test_it_says_why_it_stopped_and_when_it_could_not_be_stable(run, tmp_path, capsys):
    from flows.cli import main

    assert main(["show", str(run.path)]) == 0
    assert f"induction: {decided(run)['prompts']} prompts are enough" in capsys.readouterr().out
    assert "prompts are enough" in (run.path / "report.html").read_text()
    never, events = go(config_of(tmp_path, until=UNTIL | {"stability": 0.999, "max_prompts": 12}))
    assert (decided(never)["why"], decided(never)["prompts"]) == ("max_prompts", 12)
    notes = [event.text for event in events if event.kind == "note"]
    assert len(notes) == 3
    assert notes[-1].startswith("induction: stopped at 12 prompts, the most there may be")
    assert never.is_complete


def test_the_plan_counts_the_most(tmp_path, capsys):
    from flows.cli import main

    config = config_of(tmp_path, until=UNTIL)
    most = make_plan(config_of(tmp_path, count=40))
    assert make_plan(config).total == most.total
    assert make_plan(config).run_key == most.run_key  # what is asked of stability changes no score
    path = tmp_path / "config.yaml"
    path.write_text(config.to_yaml())
    assert main(["plan", str(path)]) == 0
    assert "begins with 4 of 40 prompts of induction" in capsys.readouterr().out


@pytest.mark.parametrize("dies_after", [*slow(1), 5])
def test_killed_anywhere_it_goes_on_to_the_same_end(run, tmp_path, monkeypatch, dies_after):
    from pipeline.store.run.run_dir import RunDirectory

    config, commit, done = config_of(tmp_path, until=UNTIL), RunDirectory.commit, []

    def dying(self, item, *args):
        if len(done) == dies_after:
            raise KeyboardInterrupt
        done.append(item)
        return commit(self, item, *args)

    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "commit", dying)
        with pytest.raises(KeyboardInterrupt):
            go(config)
    again, _ = go(config)
    assert content(again.path / "aggregate") == content(run.path / "aggregate")
    assert decided(again) == decided(run)
    _, events = go(config)  # and there is nothing to do a third time
    assert not events


@pytest.mark.slow
def test_whatever_is_lost_of_it_comes_back(run, tmp_path):
    config = config_of(tmp_path, until=UNTIL)
    before, _ = go(config)
    kept = content(before.path / "aggregate"), decided(before)
    for damage in (
        lambda: (before.path / "until.json").write_text("{"),
        (before.path / "until.json").unlink,
        lambda: flip_a_byte(min((before.path / "prompt_scores").rglob("*.parquet"))),
    ):
        damage()
        after, _ = go(config)
        assert (content(after.path / "aggregate"), decided(after)) == kept
        assert after.is_complete


@pytest.mark.slow
def test_another_bar_goes_on_and_no_bar_takes_all(run, tmp_path):
    first, _ = go(config_of(tmp_path, until=UNTIL))
    more, _ = go(config_of(tmp_path, until=UNTIL | {"stability": 0.99}))
    assert more.path == first.path
    assert decided(more)["shards"] > decided(run)["shards"]
    every, _ = go(config_of(tmp_path, count=40))
    assert every.path == first.path
    assert not (every.path / "until.json").exists()
    assert len(open_run(every.path).prompts("induction")) == 40
    assert np.isfinite(every.scores()["score"]).all()
    assert set(every.scores()["n_prompts"]) == {40}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"store": {}}, "set store.prompt_scores: true too"),
        ({"methods": ["eap", "acdc"]}, "acdc decides over all prompts of a task together"),
        (
            {
                "tasks": [{"name": "induction", "count": 4, "filter": "correct"}],
                "methods": [{"name": "eap", "ablation": "mean"}],
            },
            "a mean over the prompts of induction-correct that its filter keeps",
        ),
        ({"shards": {"prompts": 4, "by_length": True}}, "leave by_length"),
        ({"tasks": [{"name": "induction", "count": 41}]}, "begins with 41"),
        ({"until": {"stability": 1.5, "max_prompts": 40}}, "until.stability"),
    ],
)
def test_what_cannot_be_decided_shard_after_shard_is_refused(tmp_path, changes, words):
    with pytest.raises(ConfigError, match=words):
        toy_config(tmp_path, **(NOISY | {"until": UNTIL} | changes))


def test_nothing_is_decided_while_an_item_is_missing(run, tmp_path):
    path = shutil.copytree(run.path, tmp_path / run.path.name)
    with closing(prepare(config_of(tmp_path, until=UNTIL), path)) as session:
        asked, tasks = read_limits(path)
        tasks["induction"] |= {"shards": 2, "why": None}
        session.directory.limit(asked, tasks)
        gone = next(item for item in session.items if item.method == "eap")
        session.done.discard(gone)
        assert not grow(session, lambda _: None)
        assert read_limits(path)[1] == tasks
        session.done.add(gone)
        assert grow(session, lambda _: None)
        assert read_limits(path)[1]["induction"]["shards"] == 3
