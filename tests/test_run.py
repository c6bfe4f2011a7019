"""A run from config to report, in this process: what is computed, continued, and what a failure leaves."""

import errno
import json
import shutil
from collections import Counter
from contextlib import closing

import numpy as np
import pandas as pd
import pytest

import pipeline.workers.execute as execute_module
from pipeline import discover, load_model, load_scores, open_run
from pipeline.core.circuit import Circuit
from pipeline.core.errors import ConfigError, RunDirectoryError, ScoreError
from pipeline.core.items import Item
from pipeline.evaluation import evaluate
from pipeline.methods import Eap
from pipeline.planning import make_plan
from pipeline.run import prepare
from pipeline.sections import Failures
from pipeline.store.run_dir import RunDirectory
from pipeline.workers.circuits import values_of
from tests.runs import content, flip_a_byte, score_files, toy_config


class Listener(list):
    """Keeps events; `names(kind)` are those of one kind, without what failed about them."""

    def __call__(self, event):
        self.append(event)

    def names(self, kind):
        return [event.text.split(":")[0] for event in self if event.kind == kind]


def go(config, **options):
    listener = Listener()
    return discover(config, local=True, on_event=listener, **options), listener


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A complete run with every kind of item, to be read only."""
    methods = [
        {"name": "eap"},
        {"name": "eap_ig", "ablation": "mean"},
        {"name": "acdc", "threshold": 0.01, "scope": "shard", "as": "acdc"},
        {"name": "edge_patching"},
        {"name": "node_patching"},
    ]
    run, listener = go(toy_config(tmp_path_factory.mktemp("finished"), methods=methods))
    return run, listener


def test_every_item_lands_and_the_run_says_so(finished):
    run, listener = finished
    assert run.status()["complete"]
    assert sorted(listener.names("item")) == sorted(item.name for item in run.directory.items)
    assert len(run.directory.items) == 1 + 3 * 6  # statistics, then baseline and five methods in three shards
    assert (run.path / "_SUCCESS.json").is_file()
    assert (run.path / "report.html").stat().st_size > 1000
    assert not list(run.path.glob("failures/**/*.json"))
    assert not (run.path / ".lock").exists()
    assert not (run.path / ".reserve").exists()


@pytest.mark.parametrize(("folder", "level"), [("aggregate", "aggregate"), ("scores", "shard")])
def test_pandas_alone_reads_the_scores_with_their_task_and_method(finished, folder, level):
    run, _ = finished
    columns = ["task", "method", "edge_id", "n_prompts"]
    alone = pd.read_parquet(run.path / folder)[columns].astype({"task": str, "method": str})
    expected = load_scores(run.path, level=level)[columns].astype({"task": str, "method": str})
    assert sorted(alone.itertuples(index=False)) == sorted(expected.itertuples(index=False))


def test_what_was_planned_is_what_was_counted(finished):
    run, _ = finished
    plan = make_plan(toy_config(run.path.parent, methods=run.config["methods"]))
    footers = run.footers().set_index("item")
    assert len(footers) == len(plan.items)
    for item in plan.items:
        counted, planned = footers.loc[item.name], plan.cost(item)
        assert counted.forward_passes == planned.forward_passes, item.name
        assert counted.backward_passes == planned.backward_passes, item.name
        if planned.evaluations_at_most:
            assert 0 < counted.evaluations <= planned.evaluations, item.name
        else:
            assert counted.evaluations == planned.evaluations, item.name


def test_the_work_of_evaluation_that_was_planned_is_what_was_counted(tmp_path, monkeypatch):
    counted = Counter()

    def counting(job, circuits, methods, model, batches, statistics):
        before = vars(model.counters).copy()
        values = values_of(job, circuits, methods, model, batches, statistics)
        counted.update({name: n - before[name] for name, n in vars(model.counters).items()})
        counted["rows"] = sum(len(selection) for selection in circuits.values())
        return values

    monkeypatch.setattr("pipeline.workers.execute.values_of", counting)
    methods = [
        {"name": "eap"},
        {"name": "edge_patching"},
        {"name": "eap_ig", "ablation": "mean"},
        {"name": "acdc", "threshold": 0.01, "scope": "shard"},
        {"name": "node_patching"},
    ]
    config = toy_config(tmp_path, methods=methods)
    run, _ = go(config)
    assert run.status()["complete"]
    (cost,) = make_plan(config).evaluation.values()
    # 12 prompts. Recorded: clean and corrupted for eap's metric and for acdc's, clean for the mean. Patched: no circuit
    # for each of the three, 3 sizes of eap and edge_patching, 3 of eap_ig, what acdc keeps.
    assert (cost.forward_passes, cost.evaluations, cost.rows) == (12 * 5, 12 * (3 + 6 + 3 + 1), 10)
    assert counted["forward_passes"] == cost.forward_passes
    assert counted["evaluations"] == cost.evaluations
    assert counted["backward_passes"] == cost.backward_passes == 0
    assert counted["rows"] == cost.rows == len(run.faithfulness())


def test_nothing_is_evaluated_where_no_edge_is_scored(tmp_path):
    assert make_plan(toy_config(tmp_path, methods=[{"name": "node_patching"}])).evaluation == {}


@pytest.mark.parametrize(
    ("share", "items", "failures"), [(0.1, 30, 3), (0.05, 9, 1), (0.29, 100, 29), (0, 7, 0), (1.0, 7, 7)]
)
def test_a_tolerated_share_of_items_is_a_whole_number_without_the_noise_of_floats(share, items, failures):
    assert Failures(tolerate=share).tolerated(items) == failures


def test_footers_say_how_an_item_was_computed(finished):
    run, _ = finished
    footers = run.footers()
    assert set(footers.device) == {"cpu"}
    assert set(footers.attempt) == {1}
    assert set(footers.batch_size) == {32}
    assert (footers.seconds > 0).all()
    assert (footers.peak_memory_bytes > 50e6).all(), "torch alone takes more"
    assert json.loads(footers.versions[0])["torch"]


def test_the_baseline_holds_the_stock_models_metrics(finished):
    import torch
    from transformers import AutoModelForCausalLM

    from pipeline.models.toy import toy_path

    run, _ = finished
    stock = AutoModelForCausalLM.from_pretrained(toy_path("toy:planted"), dtype=torch.float32).eval()
    frame = run.baseline("induction")
    frame = frame[frame.metric == "logit_diff"].set_index("prompt_id")
    assert list(frame.index) == list(range(12))
    for prompt in run.prompts("induction"):
        for side in ("clean", "corrupted"):
            with torch.no_grad():
                logits = stock(torch.tensor([getattr(prompt, side)])).logits[0, -1]
            expected = logits[list(prompt.answers)].mean() - logits[list(prompt.wrong_answers)].mean()
            assert frame.loc[prompt.prompt_id, side] == pytest.approx(float(expected), abs=1e-5)


def test_faithfulness_is_that_of_all_prompts_at_once(finished):
    """Shards, masks of several methods in one sweep and merging must not change what one batch gives."""
    run, _ = finished
    model = load_model("toy:planted")
    batch = model.batch(run.prompts("induction"))
    table = run.faithfulness()
    assert set(table.method) == {"eap", "eap_ig-mean", "acdc", "edge_patching"}
    for row in table[table.method != "eap_ig-mean"].itertuples():
        kept = {"top": row.n_edges} if row.method != "acdc" else {}
        circuit = run.circuit(method=row.method, **kept)
        expected = evaluate(circuit, model, [batch], metric=row.metric).iloc[0]
        assert row.n_edges_pruned == expected.n_edges_pruned
        for column in ("metric_full", "metric_empty", "metric_circuit", "faithfulness"):
            assert getattr(row, column) == pytest.approx(expected[column], abs=1e-5), (row.method, column)


def test_sizes_are_the_floor_of_the_fractions_and_the_kept_set_has_none(finished):
    run, _ = finished
    table = run.faithfulness()
    eap = table[table.method == "eap"]
    assert list(eap.n_edges) == [int(f * run.graph.n_edges) for f in (0.05, 0.5, 1.0)]
    assert eap.faithfulness.iloc[-1] == pytest.approx(1.0, abs=1e-6)
    (acdc,) = table[table.method == "acdc"].itertuples()
    assert np.isnan(acdc.edge_fraction)
    assert acdc.metric == "kl_divergence"


def test_circuits_are_written_with_names_and_scores(finished):
    run, _ = finished
    files = {path.stem for path in (run.path / "circuits").iterdir()}
    assert {"induction--acdc--kept", "induction--eap--0.05"} <= files
    written = json.loads((run.path / "circuits" / "induction--acdc--kept.json").read_text())
    assert {edge["edge"] for edge in written["edges"]} == set(run.circuit(method="acdc").pruned.edge_names)
    assert written["n_edges_pruned"] == len(written["edges"])


def test_shards_of_a_run_merge_to_the_scores_of_all_prompts(finished):
    run, _ = finished
    model = load_model("toy:planted")
    scores = Eap().score(model, [model.batch(run.prompts("induction"))])
    frame = load_scores(run.path, method="eap")
    assert frame.score.to_numpy() == pytest.approx(scores.score, abs=1e-6 * np.abs(scores.score).max())
    assert isinstance(run.circuit(method="eap", top=5), Circuit)


# --- continuing --------------------------------------------------------------------------------------------


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
    config = toy_config(tmp_path, shards={"prompts": 12}, cluster={"batch_size": 5})
    other, _ = go(config)
    a, b = (load_scores(path, method="eap").score.to_numpy() for path in (run.path, other.path))
    assert a == pytest.approx(b, abs=1e-6 * np.abs(a).max())


# --- failing -----------------------------------------------------------------------------------------------


@pytest.fixture
def breakable(monkeypatch):
    """`breakable(error, when)` lets EAP raise instead of scoring, as long as `when()` holds."""
    real = Eap.score

    def break_(error, when=lambda: True):
        def score(self, *args, **kwargs):
            if when():
                raise error
            return real(self, *args, **kwargs)

        monkeypatch.setattr(Eap, "score", score)

    yield break_
    monkeypatch.undo()


def records(run):
    return [(r["name"], r["attempt"], r["failure"], r["final"]) for r in run.failures()]


TOLERANT = {"retries": 1, "tolerate": 1.0}


def test_an_exception_that_goes_away_costs_an_attempt(tmp_path, breakable):
    calls = iter(range(100))
    breakable(RuntimeError("flaky"), lambda: next(calls) == 0)
    run, listener = go(toy_config(tmp_path))
    assert run.status()["complete"]
    assert records(run) == [("induction/eap/0", 1, "error", False)]
    assert listener.names("retry") == ["induction/eap/0"]
    footers = run.footers().set_index("item")
    assert footers.loc["induction/eap/0"].attempt == 2


def test_an_item_that_keeps_failing_is_given_up_and_the_others_land(tmp_path, breakable):
    breakable(RuntimeError("broken"))
    config = toy_config(tmp_path, failures=TOLERANT)
    run, _ = go(config)
    status = run.status()
    assert (status["missing"], status["failed"], status["complete"]) == (3, 3, False)
    assert not (run.path / "_SUCCESS.json").exists()
    assert records(run)[:2] == [("induction/eap/0", 1, "error", False), ("induction/eap/0", 2, "error", True)]
    record = run.failures()[1]
    assert "broken" in record["traceback"]
    assert record["device"] == "cpu"
    assert record["host"]
    assert record["peak_memory_bytes"] > 0
    assert f"circuits resume --failed {run.path}" in record["next_step"]
    assert set(run.faithfulness().method) == {"acdc"}

    _, listener = go(config)
    assert listener == [], "given up means given up"

    with closing(prepare(config, retry_failed=True)) as session:
        assert {item.method for item in session.pending} == {"eap"}


def test_a_disk_that_fails_for_moments_only_needs_the_same_command_again(tmp_path, monkeypatch):
    real, bad = RunDirectory.commit, {"is": True}

    def commit(self, item, *args):
        if bad["is"] and item.method == "acdc":
            raise OSError(errno.EIO, "Input/output error")
        return real(self, item, *args)

    monkeypatch.setattr(RunDirectory, "commit", commit)
    config = toy_config(tmp_path, failures=TOLERANT)
    run, _ = go(config)
    assert {record[2] for record in records(run)} == {"io"}
    assert f"circuits resume {run.path}" in run.failures()[1]["next_step"]
    bad["is"] = False
    run, _ = go(config)
    assert run.status()["complete"], "without --failed"


def test_bad_scores_are_refused_without_another_attempt(tmp_path, breakable):
    breakable(ScoreError("3 of 262 edge scores are not finite"))
    run, listener = go(toy_config(tmp_path, failures=TOLERANT))
    assert [record[1:] for record in records(run)] == [(1, "input", True)] * 3
    assert run.failures()[0]["message"] == "induction/eap/0: 3 of 262 edge scores are not finite"
    assert listener.names("failed") == [f"induction/eap/{shard}" for shard in range(3)]
    assert not list(run.path.glob("scores/task=induction/method=eap/*"))


def test_too_many_failures_end_the_run_early(tmp_path, breakable):
    breakable(ScoreError("nan"))
    run, listener = go(toy_config(tmp_path, failures={"tolerate": 0}))
    assert len(records(run)) == 1
    assert listener.names("note") == ["1 of 9 items have failed, more than failures.tolerate"]
    assert run.status()["missing"] == 8


def test_a_full_disk_ends_the_run_with_a_record_and_no_file(tmp_path, monkeypatch):
    real = RunDirectory.commit

    def commit(self, item, *args):
        if item.method == "acdc":
            raise OSError(28, "No space left on device")
        return real(self, item, *args)

    monkeypatch.setattr(RunDirectory, "commit", commit)
    run, listener = go(toy_config(tmp_path))
    assert records(run) == [("induction/acdc/0", 1, "storage", True)]
    assert run.status()["done"] == 2, "baseline and EAP of the first shard; nothing was begun after"
    assert "no space left" in listener[-1].text
    assert not (run.path / "_SUCCESS.json").exists()

    monkeypatch.undo()
    with closing(prepare(toy_config(tmp_path))) as session:
        assert len(session.pending) == 7, "a full disk is no fault of the item"


def test_the_record_of_a_full_disk_finds_room_in_the_reserve(tmp_path, monkeypatch):
    real = RunDirectory.record_failure

    def record(self, *args):
        if (self.path / ".reserve").exists():
            raise OSError(28, "No space left on device")
        return real(self, *args)

    def commit(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(RunDirectory, "record_failure", record)
    monkeypatch.setattr(RunDirectory, "commit", commit)
    run, _ = go(toy_config(tmp_path))
    assert [r[2] for r in records(run)] == ["storage"]


def test_without_means_only_what_needs_them_waits(tmp_path, monkeypatch):
    def collect(*_):
        raise ScoreError("no means")

    monkeypatch.setattr(execute_module, "collect_statistics", collect)
    methods = [{"name": "eap"}, {"name": "eap_ig", "ablation": "mean"}]
    run, _ = go(toy_config(tmp_path, methods=methods, failures=TOLERANT))
    missing = {name for row in run.status()["rows"] for name in row["missing"]}
    assert missing == {"induction/statistics/0", *(f"induction/eap_ig-mean/{shard}" for shard in range(3))}
    assert [record[0] for record in records(run)] == ["induction/statistics/0"]


def test_statistics_of_a_run_come_before_what_uses_them(finished):
    _, listener = finished
    assert listener.names("item")[0] == Item("statistics", "induction", None, 0).name
