"""What a failure leaves behind in a run, and what goes on."""

import errno
from contextlib import closing

import pytest

import pipeline.workers.execute as execute_module
from flows.printing import failure_facts, show_facts
from pipeline.core.circuit import Circuit
from pipeline.core.errors import ScoreError
from pipeline.evaluation import Auroc
from pipeline.methods import Eap
from pipeline.schedule.preparing import prepare
from pipeline.store.run.run_dir import RunDirectory
from tests.listening import go
from tests.runs import toy_config


@pytest.fixture
def breakable(monkeypatch):
    """`breakable(error, when)` lets EAP raise instead of scoring, as long as `when()` holds."""
    real = Eap.run

    def break_(error, when=lambda: True):
        def run(self, work):
            if when():
                raise error
            return real(self, work)

        monkeypatch.setattr(Eap, "run", run)

    yield break_
    monkeypatch.undo()


def records(run):
    return [(r["name"], r["attempt"], r["failure"], r["final"]) for r in run.failures()]


TOLERANT = {"retries": 1, "tolerate": 1.0}


def test_an_exception_that_goes_away_costs_an_attempt(tmp_path, breakable):
    calls = iter(range(100))
    breakable(RuntimeError("flaky"), lambda: next(calls) == 0)
    run, listener = go(toy_config(tmp_path, methods=[{"name": "eap"}]))
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


@pytest.mark.slow
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


EVALUATED = {"edge_fractions": [0.5], "also": ["auroc", "cpr_cmd"]}


def test_an_evaluation_that_raises_is_a_record_and_the_others_go_on(tmp_path, monkeypatch):
    def find(self, subject, values, curve):
        raise KeyError("broken")

    config = toy_config(tmp_path, methods=[{"name": "eap"}], evaluate=EVALUATED)
    with monkeypatch.context() as patch:
        patch.setattr(Auroc, "find", find)
        run, listener = go(config)
    assert records(run) == [("induction/evaluation=auroc/0", 1, "error", True)]
    assert listener.names("failed") == ["induction/evaluation=auroc/0"]
    (record,) = run.failures()
    assert (record["error"], record["message"]) == ("KeyError", "eap: 'broken'")
    assert record["next_step"].endswith(f"circuits resume {run.path}")
    assert set(run.evaluations()["evaluation"]) == {"cpr_cmd"}
    assert len(run.faithfulness()) == 1

    status = run.status()
    assert (status["complete"], status["missing"]) == (False, 0)
    assert status["not_evaluated"] == ["induction/evaluation=auroc/0"]
    assert failure_facts(run)["records"] == [record]
    shown = show_facts(run, None, None, 3)
    assert (shown["complete"], shown["not_evaluated"]) == (False, ["induction/evaluation=auroc/0"])
    assert "1 evaluations missing" in (run.path / "report.html").read_text()

    run, _ = go(config)
    assert run.status()["complete"], "the same command tries again"
    assert run.status()["not_evaluated"] == []
    assert failure_facts(run) == {"path": str(run.path), "missing": 0, "records": []}
    assert set(run.evaluations()["evaluation"]) == {"auroc", "cpr_cmd"}


def test_an_evaluation_that_fails_on_one_shard_keeps_the_other_shards(tmp_path, monkeypatch):
    real, name = execute_module.values_of, "induction/evaluation=auroc/1"

    def values_of(job, *args):
        if job == name:
            raise RuntimeError("out of memory")
        return real(job, *args)

    def half(self, subject):
        return {"half": Circuit.from_scores(subject.scores, top=subject.scores.graph.n_edges // 2)}

    monkeypatch.setattr(Auroc, "n_circuits", lambda self, graph, *, decides: 1)
    monkeypatch.setattr(Auroc, "circuits", half)
    config = toy_config(tmp_path, methods=[{"name": "eap"}], evaluate=EVALUATED, failures=TOLERANT)
    with monkeypatch.context() as patch:
        patch.setattr(execute_module, "values_of", values_of)
        run, listener = go(config)
    assert records(run) == [(name, 1, "error", False), (name, 2, "error", True)]
    assert (listener.names("retry"), listener.names("failed")) == ([name], [name])
    kept = sorted(path.name for path in run.path.glob("evaluations/task=induction/evaluation=auroc/*"))
    assert kept == ["shard-00000.parquet", "shard-00002.parquet"]
    assert len(run.faithfulness()) == 1
    assert set(run.evaluations()["evaluation"]) == {"cpr_cmd"}
    assert run.status()["not_evaluated"] == [name]

    run, listener = go(config)
    assert listener.names("circuits") == [name], "only what was missing"
    assert run.status()["complete"]


def test_an_evaluation_that_wants_more_circuits_than_it_says_is_refused(tmp_path, monkeypatch):
    def two(self, subject):
        return {str(top): Circuit.from_scores(subject.scores, top=top) for top in (1, 2)}

    monkeypatch.setattr(Auroc, "n_circuits", lambda self, graph, *, decides: 1)
    monkeypatch.setattr(Auroc, "circuits", two)
    config = toy_config(tmp_path, methods=[{"name": "eap"}], evaluate=EVALUATED | {"also": ["auroc"]})
    run, _ = go(config)
    assert {record[2:] for record in records(run)} == {("input", True)}
    assert run.failures()[0]["message"] == "auroc wants 2 circuits of eap, and its n_circuits() says 1"
