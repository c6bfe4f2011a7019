"""Pickles, records, logs and locks in run directories that somebody else has made: shown as text or left alone."""

import json
import os
import socket

import pytest

from pipeline import open_run
from tests.security.conftest import refused
from tests.security.hostile import BAD_ID, READERS, SHARD, call, edit
from tests.slowly import slow


def test_pickles_in_a_run_are_never_read(circuits, place, run):
    for name in ("scores.pkl", "manifest.pkl", "aggregate/task=induction/x.pickle", "pytorch_model.bin"):
        (run / name).write_bytes(place.bomb)
    (run / "statistics/task=induction/means.safetensors").write_bytes(place.bomb)
    for verb in ("show", "report", "export", "failures"):
        assert call(circuits, verb, run).code in (0, 3)
    assert circuits("status", run).code == 3
    assert call(circuits, "resume", run).code == 0
    assert list((run / "statistics/task=induction").glob("_bad-*"))


RECORD = {
    "kind": "scores",
    "task": "induction",
    "method": "eap",
    "shard": 0,
    "attempt": 1,
    "failure": "error",
}
RECORDS = {
    "a list": "[]",
    "nested": "[" * 100_000,
    "no fields": "{}",
    "a task that climbs": json.dumps(RECORD | {"task": BAD_ID}),
    "an attempt of words": json.dumps(RECORD | {"attempt": "<script>"}),
    "a message that is a list": json.dumps(RECORD | {"message": ["\x1b[2J"]}),
    "no text": "\udcff",
}


MOST = ("a list", "no fields", "an attempt of words", "a message that is a list")


@pytest.mark.parametrize("case", [*slow(*MOST), *(case for case in RECORDS if case not in MOST)])
def test_records_of_failures(circuits, run, case):
    (run / SHARD).unlink()
    folder = run / "failures/task=induction/method=eap/shard-00000"
    folder.mkdir(parents=True)
    (folder / "attempt-1.json").write_bytes(RECORDS[case].encode(errors="surrogateescape"))
    assert circuits("status", run).code == 3
    assert circuits("failures", run).code == 3
    assert [record["error"] for record in open_run(run).failures()] == ["unreadable record"]
    assert call(circuits, "resume", run).code == 0


def test_messages_of_failures_do_not_steer_the_terminal(circuits, run):
    (run / SHARD).unlink()
    folder = run / "failures/task=induction/method=eap/shard-00000"
    folder.mkdir(parents=True)
    hostile = "\x1b]0;owned\x07\x1b[2J[red]\u202edone\r\nerror: none"
    record = RECORD | {
        "message": hostile,
        "error": "\x9b31m",
        "host": hostile,
        "device": hostile,
        "final": True,
    }
    (folder / "attempt-1.json").write_text(json.dumps(record | {"next_step": hostile}))
    said = circuits("failures", run)
    assert said.code == 3
    assert len(said.out.splitlines()) == 3
    assert all(line.isprintable() for line in said.out.splitlines())
    assert "[red]" in said.out


def test_nobody_is_told_to_kill_every_process(circuits, run):
    owner = {"host": socket.gethostname(), "boot_id": "", "pid": -1, "pid_start": "", "token": "t"}
    (run / ".lock").write_text(json.dumps(owner))
    for verb in ("status", "resume", "cancel"):
        said = circuits(verb, run) if verb == "cancel" else call(circuits, verb, run)
        assert "kill -1" not in said.out + said.err
        (run / ".lock").write_text(json.dumps(owner))
        os.utime(run / ".lock", (0, 0))


LOGS = {
    "a list": "[1]",
    "nested": '{"a":' * 50_000,
    "an event of words": '{"kind": "begin", "text": "x", "total": "<script>", "done": []}',
    "an event without words": '{"total": 1}',
    "a process without a host": '{"pid": "\\u001b[2J", "kind": ["\\u009b"], "text": {}, "time": 5}',
    "no text": "\udcff",
}


@pytest.mark.parametrize("case", LOGS)
def test_logs(circuits, run, case):
    (run / "log.jsonl").write_bytes(LOGS[case].encode(errors="surrogateescape"))
    said = circuits("logs", run)
    assert said.code == 0, said
    assert all(line.isprintable() for line in said.out.splitlines())
    assert len(said.out.splitlines()) <= 1


def test_a_log_of_a_gigabyte(circuits, run):
    with (run / "log.jsonl").open("w") as file:
        file.truncate(2**30)
    refused(circuits("logs", run), [1], ["log.jsonl", "1,073,741,824 bytes", "remove it"])


@pytest.mark.parametrize("text", ["[]", "{" * 50_000, '{"pid": "../../etc"}', '{"host": 1}'])
def test_locks(circuits, run, text):
    (run / ".lock").write_text(text)
    os.utime(run / ".lock", (0, 0))
    assert circuits("status", run).code == 0
    assert call(circuits, "resume", run).code == 0


@pytest.mark.parametrize("verb", ["show", "export"])
@pytest.mark.parametrize("option", ["--task", "--method"])
def test_ids_on_the_command_line(circuits, run, verb, option):
    first, *rest = READERS[verb]
    said = circuits(first, run, *rest, option, "../../outside/\x1b[2Jx\n")
    refused(said, [1], ["no ", "\\x1b[2Jx\\n", "eap" if option == "--method" else "induction"])


def test_a_folder_of_runs_with_a_bad_one(circuits, run):
    edit(run / "manifest.json", identity__tasks={BAD_ID: {}})
    said = circuits("list", run.parent)
    assert said.code == 0
    assert "cannot be read" in said.out
