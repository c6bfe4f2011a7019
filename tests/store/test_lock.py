"""Who may have a run directory."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace

import pytest

from pipeline.core.errors import RunDirectoryError
from pipeline.store import lock
from pipeline.store.lock import LOCK_NAME, Owner, is_free, locked, process_start, read_owner, this_process
from pipeline.store.place import ObjectPath
from tests.object_store import folder_in

DEAD_PID = 2**22 + 1  # above the largest process id of Linux


def place(folder, owner, silence=0.0):
    path = folder / LOCK_NAME
    path.write_text(json.dumps(asdict(owner)))
    touched = path.stat().st_mtime - silence
    os.utime(path, (touched, touched))


def test_the_lock_is_held_and_given_back(tmp_path):
    with locked(tmp_path / "new") as me:
        owner, silence = read_owner(tmp_path / "new")
        assert owner == me
        assert owner.pid == os.getpid()
        assert 0 <= silence < 60
    assert read_owner(tmp_path / "new") is None


def test_the_lock_is_given_back_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), locked(tmp_path):
        _ = 1 / 0
    assert read_owner(tmp_path) is None


def test_a_live_owner_is_named_and_refused(tmp_path):
    with locked(tmp_path):
        with pytest.raises(RunDirectoryError) as caught, locked(tmp_path):
            pass
        message = str(caught.value)
        assert str(os.getpid()) in message
        assert this_process().host in message
        assert "\n" not in message
        assert read_owner(tmp_path)[0].pid == os.getpid()  # the refused one has not taken it away


def test_another_live_process_of_this_machine_is_refused(tmp_path):
    sleeper = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        place(
            tmp_path,
            replace(this_process(), pid=sleeper.pid, pid_start=process_start(sleeper.pid)),
            silence=9999,
        )
        with pytest.raises(RunDirectoryError, match=str(sleeper.pid)), locked(tmp_path):
            pass
    finally:
        sleeper.communicate(b"\n")


@pytest.mark.parametrize(
    "gone", [{"pid": DEAD_PID}, {"pid_start": "1"}], ids=["pid", "pid given to another program"]
)
def test_a_dead_process_of_this_machine_is_replaced_at_once(tmp_path, gone):
    place(tmp_path, replace(this_process(), **gone))
    with locked(tmp_path) as me:
        assert read_owner(tmp_path)[0] == me


HOLDER = """
import sys
from pathlib import Path
from pipeline.store.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_an_owner_in_a_container_of_the_same_name_is_refused_though_its_process_is_not_seen(tmp_path):
    unshare = ["unshare", "--pid", "--fork", "--mount-proc"]
    if shutil.which("unshare") is None or subprocess.call([*unshare, "true"], stderr=subprocess.DEVNULL):
        pytest.skip("no process namespaces for this user")
    command = [*unshare, sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        try:
            with pytest.raises(RunDirectoryError, match="if that machine is gone"), locked(tmp_path):
                pass
        finally:
            holder.communicate()


@pytest.mark.parametrize("elsewhere", [{"host": "another-host"}, {"boot_id": "before the reboot"}])
def test_another_machine_is_replaced_after_a_minute_of_silence(tmp_path, elsewhere):
    other = replace(this_process(), **elsewhere)
    place(tmp_path, other, silence=30)
    with pytest.raises(RunDirectoryError, match=r"try again in|wait for it"), locked(tmp_path):
        pass
    place(tmp_path, other, silence=61)
    with locked(tmp_path) as me:
        assert read_owner(tmp_path)[0] == me


@pytest.mark.parametrize(
    ("change", "silence", "free"),
    [
        ({}, 10_000.0, False),  # this very process lives, however silent
        ({"pid": DEAD_PID}, 0.0, True),
        ({"pid_start": "1"}, 0.0, True),
        ({"host": "x", "pid": DEAD_PID}, 59.0, False),
        ({"host": "x"}, 61.0, True),
    ],
)
def test_when_a_lock_is_free(change, silence, free):
    me = this_process()
    assert is_free(replace(me, **change), silence, me) is free


def test_of_many_that_find_a_dead_owner_one_takes_over(tmp_path):
    place(tmp_path, replace(this_process(), pid=DEAD_PID))
    everyone = threading.Barrier(8)
    outcomes = []

    def try_it():
        everyone.wait()
        try:
            with locked(tmp_path) as me:
                outcomes.append(me)
                everyone.wait()  # nobody lets go before all have tried
        except RunDirectoryError:
            outcomes.append(None)
            everyone.wait()

    threads = [threading.Thread(target=try_it) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 8
    assert sum(owner is not None for owner in outcomes) == 1


def test_an_unreadable_lock_counts_by_its_age(tmp_path):
    (tmp_path / LOCK_NAME).write_text("{")
    with pytest.raises(RunDirectoryError), locked(tmp_path):
        pass
    long_ago = (tmp_path / LOCK_NAME).stat().st_mtime - 61
    os.utime(tmp_path / LOCK_NAME, (long_ago, long_ago))
    with locked(tmp_path):
        pass


def test_a_lock_that_was_taken_over_is_not_removed_by_its_old_owner(tmp_path):
    other = Owner("another-host", "b", 1, "1", "token")
    with locked(tmp_path):
        place(tmp_path, other)
    assert read_owner(tmp_path)[0] == other


def test_the_start_of_processes():
    assert process_start(os.getpid()) == process_start(os.getpid()) != ""
    assert process_start(DEAD_PID) is None


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunDirectoryError, match="cannot be locked"), locked(tmp_path / "file"):
        pass


# --- in a store ------------------------------------------------------------------------------------------------


@pytest.fixture
def prefix(object_store, monkeypatch):
    monkeypatch.setattr(lock, "SETTLE_SECONDS", 0.2)
    return folder_in(object_store)


def test_a_store_knows_its_owner_too(prefix):
    with locked(prefix) as me:
        owner, silence = read_owner(prefix)
        assert owner == me
        assert 0 <= silence < 60
        with pytest.raises(RunDirectoryError, match=str(os.getpid())), locked(prefix):
            pass
        assert read_owner(prefix)[0] == me
    assert read_owner(prefix) is None
    (prefix / LOCK_NAME).write_text(json.dumps(asdict(replace(this_process(), pid=DEAD_PID))))
    with locked(prefix) as me:
        assert read_owner(prefix)[0] == me


def test_of_two_that_write_at_once_the_last_has_a_store(prefix, monkeypatch):
    """Both find it free; the other's write comes in while the first one waits for such writes."""
    other = replace(this_process(), host="another-host")
    monkeypatch.setattr(
        "pipeline.store.lock.time.sleep",
        lambda seconds: (prefix / LOCK_NAME).write_text(json.dumps(asdict(other))),
    )
    with pytest.raises(RunDirectoryError, match="another-host"), locked(prefix):
        pass
    assert read_owner(prefix)[0] == other


def test_a_heartbeat_in_a_store_renews_the_time_and_keeps_the_owner(prefix, monkeypatch):
    monkeypatch.setattr(lock, "HEARTBEAT_SECONDS", 0.05)
    touches = []
    monkeypatch.setattr(
        ObjectPath, "touch", lambda self, real=ObjectPath.touch: (real(self), touches.append(self))
    )
    with locked(prefix) as me:
        while len(touches) < 2:
            time.sleep(0.01)
        assert read_owner(prefix)[0] == me
