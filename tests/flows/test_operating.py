"""Verbs for a run under way or gone wrong: what it said, stopping it, one item alone."""

import os
import shutil
import signal
import sys
import threading
from contextlib import closing
from unittest.mock import MagicMock

import pytest
import yaml

from flows import stopping
from flows.stopping import stoppable
from pipeline import RunConfig, open_run
from pipeline.core.errors import RunDirectoryError
from pipeline.methods import Eap
from pipeline.schedule.control import Watch, cancel
from pipeline.schedule.preparing import prepare
from pipeline.store.place.lock import locked
from pipeline.store.run.log import RunLog, read_log
from tests.processes import GUARD_SECONDS, wait_to_be_interrupted
from tests.runs import content


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory):
    """A run of 9 items, of which EAP of the second shard has failed for good; and whether it still does."""
    from flows.cli import main
    from tests.runs import toy_mapping

    folder = tmp_path_factory.mktemp("poisoned")
    config = folder / "config.yaml"
    mapping = toy_mapping(folder / "results", failures={"retries": 1, "tolerate": 1.0})
    config.write_text(yaml.safe_dump(mapping))
    real, poison = Eap.run, {"is": True}

    def run(self, work):
        if poison["is"] and 4 in [prompt_id for batch in work.batches for prompt_id in batch.prompt_ids]:
            raise ZeroDivisionError("a prompt of poison")
        return real(self, work)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Eap, "run", run)
        assert main(["run", str(config), "--local"]) == 3
        (path,) = (folder / "results").iterdir()
        yield path, poison


def test_a_poison_item_is_set_apart_with_its_traceback_and_the_command_to_see_it_alone(circuits, poisoned):
    path, _ = poisoned
    (first, last) = open_run(path).failures()
    assert (first["name"], last["attempt"], last["final"]) == ("induction/eap/1", 2, True)
    assert "a prompt of poison" in last["traceback"]
    assert f"circuits reproduce {path} induction/eap/1" in circuits("failures", path).out
    assert open_run(path).status()["missing"] == 1


def test_an_item_alone_fails_as_it_did_with_its_whole_traceback_and_touches_nothing(circuits, poisoned):
    path, _ = poisoned
    before = content(path)
    said = circuits("reproduce", path, "induction/eap/1")
    assert said.code == 1
    assert said.err.startswith("Traceback (most recent call last)")
    assert "ZeroDivisionError: a prompt of poison" in said.err
    assert f"circuits resume --failed {path}" in said.err
    assert content(path) == before


@pytest.mark.parametrize("name", ["induction/eap/0", "induction/acdc/1", "induction/baseline/1"])
def test_a_good_item_alone_says_its_rows_and_touches_nothing(circuits, poisoned, name):
    path, _ = poisoned
    before = content(path)
    said = circuits("reproduce", path, name)
    assert said.code == 0
    footers = open_run(path).footers().set_index("item")
    assert f"{name} gives {footers.loc[name].rows} rows" in said.out
    assert content(path) == before


def test_a_name_that_no_item_has_is_one_line(circuits, poisoned):
    said = circuits("reproduce", poisoned[0], "induction/eap/7")
    assert said.code == 1
    assert said.err.startswith(f"error: {poisoned[0]}: has no item 'induction/eap/7'")
    assert said.err.count("\n") == 1


def test_an_item_whose_prompts_have_changed_is_not_passed_off_as_the_same(circuits, poisoned):
    path, _ = poisoned
    text = (path / "run.yaml").read_text()
    (path / "run.yaml").write_text(text.replace("seed: 0", "seed: 1"))
    said = circuits("reproduce", path, "induction/eap/1")
    (path / "run.yaml").write_text(text)
    assert "would be another item today" in said.err


def test_once_mended_resume_failed_completes_the_run(circuits, poisoned, tmp_path):
    whole, poison = poisoned
    path = shutil.copytree(whole, tmp_path / whole.name)
    assert circuits("resume", path, "--local").code == 3, "given up until it is asked for"
    poison["is"] = False
    try:
        assert circuits("reproduce", path, "induction/eap/1").code == 0
        assert circuits("resume", path, "--failed", "--local").code == 0
    finally:
        poison["is"] = True
    assert open_run(path).status()["complete"]


@pytest.mark.slow
def test_a_pooled_search_can_be_seen_alone(circuits, config_file):
    config = config_file(methods=[{"name": "acdc", "thresholds": [0.01, 0.1]}])
    assert circuits("run", config, "--local").code == 0
    path = next(config.parent.glob("results/*"))
    before = content(path)
    said = circuits("reproduce", path, "induction/acdc-0.1/0")
    assert said.code == 0, said.err
    assert "gives 262 rows" in said.out
    assert content(path) == before


# --- logs --------------------------------------------------------------------------------------------------


def test_the_log_tells_every_item_and_attempt_with_its_time(circuits, poisoned):
    path, _ = poisoned
    data = circuits("logs", path, "--json").data
    kinds = [line["kind"] for line in data]
    assert kinds[0] == "session"
    assert {"begin", "retry", "failed", "step", "end"} <= set(kinds)
    assert kinds.count("item") >= 8
    assert data == sorted(data, key=lambda line: line["time"])
    out = circuits("logs", path).out
    assert "FAILED: induction/eap/1: a prompt of poison" in out
    assert f"process {os.getpid()} on " in out
    assert len(circuits("logs", path, "--tail", 3).out.splitlines()) == 3


def test_a_torn_line_is_passed_over_and_a_long_log_loses_its_older_half(tmp_path, monkeypatch):
    log = RunLog(tmp_path)
    for number in range(100):
        log.write("note", f"line {number}")
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"kind": "no')
    assert len(read_log(tmp_path)) == 100
    log.begin("another process")
    assert len(read_log(tmp_path)) == 101, "what follows is no part of the torn line"
    monkeypatch.setattr("pipeline.store.run.log.MOST_BYTES", 4000)
    log.write("note", "last")
    log.write("note", "very last")
    lines = read_log(tmp_path)
    assert lines[-1]["text"] == "very last"
    assert 10 < len(lines) < 60
    assert (tmp_path / "log.jsonl").stat().st_size < 4000


def test_a_log_that_cannot_be_written_stops_nothing(tmp_path):
    RunLog(tmp_path / "gone").write("note", "unheard")
    assert read_log(tmp_path / "gone") == []


# --- cancel ------------------------------------------------------------------------------------------------


def test_nothing_is_cancelled_where_nobody_is_at_work(circuits, poisoned):
    path, _ = poisoned
    said = circuits("cancel", path)
    assert (said.code, said.out) == (0, f"{path}: nobody is at work; to go on: circuits resume {path}\n")
    assert not (path / ".cancel").exists()


def test_cancelling_interrupts_the_owner_and_waits_until_it_has_let_go(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.schedule.control.POLL_SECONDS", 0.05)
    said = []
    canceller = threading.Thread(target=lambda: said.append(cancel(tmp_path, GUARD_SECONDS)))
    with pytest.raises(KeyboardInterrupt), locked(tmp_path) as owner, closing(Watch(tmp_path, owner)):  # noqa: PT012
        canceller.start()
        wait_to_be_interrupted()
    canceller.join()
    assert said[0].startswith(f"{tmp_path}: stopped process {os.getpid()} on ")
    assert not (tmp_path / ".cancel").exists()


def test_a_process_that_does_not_answer_is_named(tmp_path):
    with locked(tmp_path), pytest.raises(RunDirectoryError, match=f"kill {os.getpid()}"):
        cancel(tmp_path, patience=0.3)
    assert not (tmp_path / ".cancel").exists()


def test_a_request_to_an_earlier_process_does_not_stop_the_next(config_file):
    config = RunConfig.load(config_file())
    with closing(prepare(config)) as session:
        path = session.path
    (path / ".cancel").touch()
    with closing(prepare(config)):
        assert not (path / ".cancel").exists()


def test_a_process_that_has_lost_its_directory_stops(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.schedule.control.POLL_SECONDS", 0.01)
    with (  # noqa: PT012
        pytest.raises(KeyboardInterrupt),
        locked(tmp_path) as owner,
        closing(Watch(tmp_path, owner)) as watch,
    ):
        lock = tmp_path / ".lock"
        lock.write_text(lock.read_text().replace(owner.token, "f" * 32))
        wait_to_be_interrupted()
    assert "taken over by process" in watch.why


# --- signals -----------------------------------------------------------------------------------------------


@pytest.fixture
def with_terminal():
    """The end of a terminal means something, also to tests that are run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("with_terminal")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_ends_the_work_and_the_next_ones_do_not_end_the_clearing_up(number):
    cleared = []

    def clear_up():
        signal.raise_signal(number)
        signal.raise_signal(signal.SIGTERM)
        cleared.append(True)

    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), stoppable():  # noqa: PT012 - what is shown is how they nest
        try:
            with stoppable():
                signal.raise_signal(number)
        finally:
            clear_up()
    assert cleared == [True]
    assert signal.getsignal(number) == before


def test_a_run_that_was_started_to_outlive_its_terminal_does():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with stoppable():
            signal.raise_signal(signal.SIGHUP)
            with stoppable():
                signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_what_fails_while_a_stopped_run_is_cleared_up_is_no_news():
    with pytest.raises(KeyboardInterrupt), stoppable():  # noqa: PT012
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            raise ConnectionError("the server has gone first")


def test_a_stop_that_was_lost_in_a_destructor_can_be_asked_for_again(monkeypatch):
    class Destroyed:
        def __del__(self):
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt), stoppable():  # noqa: PT012
        with monkeypatch.context() as patch:
            patch.setattr(sys, "unraisablehook", lambda _: None)
            Destroyed()
        signal.raise_signal(signal.SIGTERM)  # too soon: the first may be on its way
        monkeypatch.setattr(stopping, "LOST_SECONDS", 0.0)
        signal.raise_signal(signal.SIGTERM)
        pytest.fail("not heard")


def test_workers_are_let_go_of_undisturbed_however_late_the_next_signal_comes(monkeypatch):
    from flows import running

    closed = []

    class Workers:
        def close(self):
            signal.raise_signal(signal.SIGTERM)
            closed.append(True)

    monkeypatch.setattr(stopping, "LOST_SECONDS", -1.0)
    monkeypatch.setattr(running, "open_pool", lambda _: Workers())
    monkeypatch.setattr(running, "may_be_named", lambda: False)
    monkeypatch.setattr(running, "refuse_what_is_not_here", lambda _: None)
    monkeypatch.setattr(running, "conduct", lambda *_: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(KeyboardInterrupt), stoppable():
        running.run_flow(MagicMock())
    assert closed == [True]


def test_the_last_of_a_process_leaves_it_deaf():
    before = {number: signal.getsignal(number) for number in stopping.SIGNALS}
    try:
        with stoppable(last=True):
            pass
        assert {signal.getsignal(number) for number in before} == {signal.SIG_IGN}
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
