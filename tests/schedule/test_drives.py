"""One circuit for a whole task: the same for any number of workers, whoever dies, however often it is begun again."""

import itertools
import json
import shutil
from collections import Counter
from contextlib import closing

import numpy as np
import pytest

from pipeline import load_model, open_run
from pipeline.core.prompts import bucket_by_length
from pipeline.core.questions import Measure
from pipeline.methods import Acdc
from pipeline.models.tokens import tokenise
from pipeline.schedule.conduct import conduct
from pipeline.schedule.pools import worker_opener
from pipeline.schedule.preparing import prepare
from pipeline.store.run import decisions
from pipeline.workers import together
from pipeline.workers.jobs import Failure, Outcome
from pipeline.workers.local import LocalPool
from pipeline.workers.together import Consult, share_out
from tests.runs import content, toy_config
from tests.slowly import slow

THRESHOLDS = (0.001, 0.01, 0.1)


class Several:
    """Workers in this process. `dying` are numbers of calls at which the worker asked dies instead, or fails in
    another way."""

    def __init__(self, opener, size, dying=(), failure="died"):
        self._failure = Failure(failure, "ActorDied", "killed")
        self.size, self._opener, self.dying = size, opener, set(dying)
        self._pools = [LocalPool(opener) for _ in range(size)]
        self.calls, self.deaths, self.measured = itertools.count(), 0, Counter()

    def run(self, jobs, **options):
        yield from self._pools[0].run(jobs, **options)

    def together(self, jobs):
        outcomes = {}
        for slot, job in jobs.items():
            if next(self.calls) in self.dying:
                self._pools[slot] = LocalPool(self._opener)
                self.deaths += 1
                outcomes[slot] = Outcome(job, 1, 0.0, slot, None, self._failure)
                continue
            if isinstance(job, Consult):
                self.measured.update(q.receiver for q in job.questions if isinstance(q, Measure))
            outcomes[slot] = self._pools[slot].together({0: job})[0]
        return outcomes

    def close(self):
        pass


class Shrinking(Several):
    """One of the machines leaves at a call and does not come back: its place is gone, and its worker's job fails."""

    leaving = 9

    def together(self, jobs):
        if self.size > 1 and next(self.calls) >= self.leaving:
            self.size -= 1
        if lost := [slot for slot in jobs if slot >= self.size]:
            here = super().together({slot: job for slot, job in jobs.items() if slot not in lost})
            gone = Failure("died", "NoPlaceError", "no place")
            return here | {slot: Outcome(jobs[slot], 1, 0.0, slot, None, gone) for slot in lost}
        return super().together(jobs)


def config(folder, **changes):
    methods = [{"name": "acdc", "thresholds": list(THRESHOLDS)}]
    cluster = {"batch_size": 5}
    return toy_config(folder, **{"methods": methods, "cluster": cluster, "seed": 3, **changes})


def go(config, size=1, dying=(), events=None, failure="died"):
    with closing(prepare(config)) as session:
        pool = Several(worker_opener(session), size, dying, failure)
        conduct(session, pool, (lambda event: None) if events is None else events.append)
        return open_run(session.path), pool


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return go(config(tmp_path_factory.mktemp("undisturbed")))


def results(run):
    return content(run.path / "aggregate")


def test_a_pooled_circuit_is_that_of_all_prompts_in_one_search(undisturbed, tmp_path):
    run, _ = undisturbed
    assert run.status()["missing"] == 0
    model = load_model("toy:planted")
    tokens = tokenise(config(tmp_path).task_ids["induction"].pairs(model.tokenizer, 3), model.tokenizer)
    batches = [model.batch(part) for part in bucket_by_length(tokens, 5)]
    assert [batch.n_prompts for batch in batches] == [5, 5, 2]
    found = Acdc().sweep(model, batches, THRESHOLDS)
    for threshold in THRESHOLDS:
        frame = run.scores(method=f"acdc-{threshold:g}")
        np.testing.assert_array_equal(frame.set_index("edge_id").kept, found[threshold].kept)
        measured = ~np.isnan(found[threshold].score)
        np.testing.assert_array_equal(frame.score.notna(), measured)
        assert (frame.n_prompts[frame.score.notna()] == 12).all()
        np.testing.assert_allclose(frame.score[measured], found[threshold].score[measured], atol=2e-6)
    sizes = [int(run.scores(method=f"acdc-{t:g}").kept.sum()) for t in THRESHOLDS]
    assert sizes == sorted(sizes, reverse=True)
    assert 0 < sizes[0] < model.graph.n_edges


@pytest.mark.parametrize("size", [*slow(2, 5), 3])
def test_any_number_of_workers_gives_the_same_bytes(undisturbed, tmp_path, size):
    run, pool = go(config(tmp_path), size)
    assert results(run) == results(undisturbed[0])
    assert sum(pool.measured.values()) > sum(undisturbed[1].measured.values())


@pytest.mark.slow
def test_a_search_whose_cluster_shrinks_goes_on_with_the_workers_that_are_left(undisturbed, tmp_path):
    with closing(prepare(config(tmp_path))) as session:
        pool = Shrinking(worker_opener(session), 2)
        conduct(session, pool)
    assert pool.size == 1
    run = open_run(session.path)
    assert run.status()["missing"] == 0
    assert results(run) == results(undisturbed[0])
    assert not run.failures()


@pytest.mark.parametrize("dying", [*slow([0], [7], [4, 20, 30]), [8, 9]])
def test_workers_that_die_are_replaced_and_change_nothing(undisturbed, tmp_path, dying):
    run, pool = go(config(tmp_path), 2, dying)
    assert pool.deaths == len(dying)
    assert run.status()["missing"] == 0
    assert results(run) == results(undisturbed[0])


@pytest.mark.slow
def test_workers_that_die_together_cost_one_attempt(undisturbed, tmp_path):
    run, pool = go(config(tmp_path), 3, [3, 4, 5])  # after all have recorded, at the first question
    assert pool.deaths == 3
    assert not run.failures()
    assert results(run) == results(undisturbed[0])


@pytest.mark.parametrize(
    ("failure", "is_tried_again"), [*slow(("io", True)), ("error", True), *slow(("input", False))]
)
def test_what_another_attempt_may_mend_is_tried_again_in_a_search_too(
    undisturbed, tmp_path, failure, is_tried_again
):
    run, _ = go(config(tmp_path), 2, [8], failure=failure)
    assert (run.status()["missing"] == 0) is is_tried_again
    if is_tried_again:
        assert results(run) == results(undisturbed[0])


@pytest.mark.slow
def test_a_worker_that_dies_again_and_again_fails_the_search_and_resume_goes_on(undisturbed, tmp_path):
    run, pool = go(config(tmp_path), 2, range(30, 40))
    assert 3 <= pool.deaths <= 6, "some may die together"
    assert run.status()["missing"] == len(THRESHOLDS)
    records = list((run.path / "failures").rglob("attempt-1.json"))
    assert len(records) == 3
    assert "circuits resume" in json.loads(records[0].read_text())["next_step"]
    decided = len(list((run.path / "decisions").rglob("step-*.json")))
    assert decided > 0
    run, pool = go(config(tmp_path), 2)
    assert run.status()["missing"] == 0
    assert results(run) == results(undisturbed[0])


@pytest.mark.slow
def test_a_driver_that_dies_is_followed_from_the_last_receiver_that_was_decided(
    undisturbed, tmp_path, monkeypatch
):
    whole = sum(1 for _ in (undisturbed[0].path / "decisions").rglob("step-*.json"))
    written, write = [], decisions.write
    for stop_after in (1, 3, whole // 2):

        def dying(*args, stop_after=stop_after):
            if len(written) >= stop_after:
                raise KeyboardInterrupt
            written.append(args[2])
            return write(*args)

        monkeypatch.setattr(decisions, "write", dying)
        written.clear()
        with pytest.raises(KeyboardInterrupt):
            go(config(tmp_path))
    monkeypatch.setattr(decisions, "write", write)
    before = {json.loads(path.read_text())["number"] for path in tmp_path.rglob("step-*.json")}
    assert len(before) == 1 + 3 + whole // 2
    run, pool = go(config(tmp_path))
    assert not before & pool.measured.keys(), "what was decided is not asked about again"
    assert results(run) == results(undisturbed[0])


@pytest.mark.parametrize("damage", ["cut", *slow("flip", "other search", "gone")])
def test_a_damaged_decision_is_made_again(undisturbed, tmp_path, damage):
    whole = undisturbed[0].path
    run = open_run(shutil.copytree(whole, tmp_path / whole.name))
    files = sorted(run.path.rglob("step-*.json"), reverse=True)  # as visited: from the output back
    victim = files[len(files) // 2]
    receiver = json.loads(victim.read_text())["number"]
    if damage == "cut":
        victim.write_bytes(victim.read_bytes()[:50])
    elif damage == "flip":
        victim.write_text(victim.read_text().replace('"kept": [', '"kept": [true, ', 1))
    elif damage == "other search":
        victim.write_text(victim.read_text().replace('"search": "', '"search": "0', 1))
    else:
        victim.unlink()
    for path in run.path.glob("scores/**/*.parquet"):
        path.unlink()
    again, pool = go(config(tmp_path))
    assert receiver in pool.measured
    assert not {json.loads(f.read_text())["number"] for f in files[: len(files) // 2]} & pool.measured.keys()
    assert results(again) == results(undisturbed[0])


@pytest.mark.slow
def test_recorded_runs_that_do_not_fit_into_memory_are_recorded_again_and_said(undisturbed, tmp_path):
    events = []
    cluster = {"batch_size": 5, "memory_per_worker": 1e-9}
    run, _ = go(config(tmp_path, cluster=cluster), events=events)
    assert any("0 of 3 batches fit into memory" in event.text for event in events)
    assert results(run) == results(undisturbed[0])


@pytest.mark.slow
def test_one_missing_threshold_is_searched_with_the_others_and_committed_alone(undisturbed, tmp_path):
    run, _ = go(config(tmp_path))
    files = sorted(run.path.glob("scores/**/*.parquet"))
    before = {path: path.stat().st_mtime_ns for path in files}
    files[1].unlink()
    again, pool = go(config(tmp_path))
    assert not pool.measured, "every decision is there"
    assert {path for path in files if path.stat().st_mtime_ns != before[path]} == {files[1]}
    assert results(again) == results(undisturbed[0])


def test_bad_numbers_in_a_pooled_search_are_the_users_error(tmp_path, monkeypatch):
    real = together.Parts.__call__

    def nan(self, job, bench):
        answer = real(self, job, bench)
        if isinstance(job, Consult):
            answer[-1][:] = np.nan
        return answer

    monkeypatch.setattr(together.Parts, "__call__", nan)
    run, _ = go(config(tmp_path))
    (record, *_) = [json.loads(p.read_text()) for p in (run.path / "failures").rglob("attempt-*.json")]
    assert (record["failure"], record["final"]) == ("input", True)
    assert "the metric is not finite at" in record["message"]


def test_batches_are_shared_out_evenly():
    assert share_out([5, 5, 2], 2) == [(0,), (1, 2)] or share_out([5, 5, 2], 2) == [(0, 2), (1,)]
    assert share_out([1], 4) == [(0,)]
    shares = share_out([7, 3, 3, 2, 2, 1], 3)
    assert sorted(index for share in shares for index in share) == list(range(6))
    assert max(sum([7, 3, 3, 2, 2, 1][i] for i in share) for share in shares) == 7
