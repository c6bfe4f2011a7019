"""Who may have a run directory."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import asdict, replace

import pytest

from pipeline.core.errors import RunDirectoryError
from pipeline.store.place import claims, flock, lock, owners
from pipeline.store.place.atomic import write_atomic
from pipeline.store.place.lock import GUARD_NAME, LOCK_NAME, holding, locked, read_owner
from pipeline.store.place.owners import Owner, is_free, process_start, this_process
from pipeline.store.place.where import found
from tests.object_store import folder_in
from tests.processes import wait_for

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
from pipeline.store.place.lock import locked
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


def test_an_owner_that_was_replaced_is_told_before_it_writes_what_counts(tmp_path):
    with holding(tmp_path) as hold:
        hold.confirm()
        place(tmp_path, replace(hold.owner, host="another-host", token="theirs"))
        with pytest.raises(RunDirectoryError, match="was taken over"):
            hold.confirm()
        with pytest.raises(RunDirectoryError, match="was taken over"):
            write_atomic(tmp_path / "new" / "results", "old")
        assert not (tmp_path / "new").exists()


def test_an_owner_whose_successor_has_come_and_gone_is_told_in_a_folder_too(tmp_path):
    with holding(tmp_path / "run") as hold:
        (tmp_path / "run" / LOCK_NAME).unlink()
        with pytest.raises(RunDirectoryError, match="was taken over"):
            hold.confirm()
        write_atomic(tmp_path / "elsewhere", "not in the run")
    assert not (tmp_path / "run" / LOCK_NAME).exists()


def test_a_heartbeat_keeps_no_lock_alive_but_its_own(tmp_path):
    other = replace(this_process(), host="another-host", token="theirs")
    with locked(tmp_path) as me:
        os.utime(tmp_path / LOCK_NAME, (0, 0))
        assert lock._touch(tmp_path, me)
        assert read_owner(tmp_path)[1] < 60
        place(tmp_path, other, silence=30)
        before = (tmp_path / LOCK_NAME).stat().st_mtime_ns
        assert not lock._touch(tmp_path, me)
        assert (tmp_path / LOCK_NAME).stat().st_mtime_ns == before


# --- the guard ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("folder", "mode"), [(0o755, 0o600), (0o775, 0o660), (0o777, 0o666), (0o700, 0o600)])
def test_who_may_not_write_into_a_folder_cannot_open_its_guard(tmp_path, folder, mode):
    (tmp_path / GUARD_NAME).touch(0o644)  # of an earlier version
    tmp_path.chmod(folder)
    with locked(tmp_path):
        assert (tmp_path / GUARD_NAME).stat().st_mode & 0o777 == mode


def test_who_keeps_the_guard_is_named_after_a_moment(tmp_path, monkeypatch):
    monkeypatch.setattr(flock, "PATIENCE", 0.05)
    with (tmp_path / GUARD_NAME).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        named = f"kept locked by process {os.getpid()} \\("
        with pytest.raises(RunDirectoryError, match=named) as caught, locked(tmp_path):
            pass
    assert "\n" not in str(caught.value)
    with locked(tmp_path):
        pass


def test_an_owner_goes_on_while_somebody_keeps_the_guard(tmp_path, monkeypatch):
    monkeypatch.setattr(flock, "PATIENCE", 0.05)
    with (tmp_path / GUARD_NAME).open("w") as file:
        with holding(tmp_path) as hold:
            fcntl.flock(file, fcntl.LOCK_EX)
            assert lock._touch(tmp_path, hold.owner)
            write_atomic(tmp_path / "results", "new")
        assert read_owner(tmp_path) is None, "and lets go"


# --- in a store ------------------------------------------------------------------------------------------------


@pytest.fixture
def prefix(object_store):
    return folder_in(object_store)


@pytest.fixture
def sleep(monkeypatch):
    """Lets time pass for this machine and the store."""

    def pass_(seconds):
        for name in ("_clock", "store_now"):
            real = getattr(claims, name)
            monkeypatch.setattr(claims, name, lambda *folder, real=real: real(*folder) + seconds)

    return pass_


@contextmanager
def elsewhere():
    """Claims that are made in the block, when it is entered, are those of another machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owners, "_boot_id", lambda: "another container")
        yield


def write_claim(folder, owner, *, held=True):
    """As another driver has written it."""
    path = folder / claims.CLAIMS / owner.token
    path.write_text(json.dumps({**asdict(owner), "held": held}))
    return path


def left_in(folder):
    return [path.name for path in found(folder, "**/*")]


def test_a_store_knows_its_owner_too(prefix):
    with locked(prefix) as me:
        owner, silence = read_owner(prefix)
        assert owner == me
        assert 0 <= silence < 60
        with pytest.raises(RunDirectoryError, match=f"in use by process {os.getpid()}"), locked(prefix):
            pass
        assert read_owner(prefix)[0] == me
    assert read_owner(prefix) is None
    assert left_in(prefix) == []


def test_a_dead_process_of_this_machine_is_replaced_at_once_in_a_store(prefix):
    gone = replace(this_process(), pid=DEAD_PID)
    write_claim(prefix, gone)
    with locked(prefix) as me:
        assert read_owner(prefix)[0] == me
    assert left_in(prefix) == []


def test_a_lock_of_an_earlier_version_is_respected_and_taken_over_when_its_owner_is_dead(prefix):
    other = replace(this_process(), host="another-host", token="theirs")
    (prefix / LOCK_NAME).write_text(json.dumps(asdict(other)))
    with pytest.raises(RunDirectoryError, match="on another-host"), locked(prefix):
        pass
    assert read_owner(prefix)[0] == other
    (prefix / LOCK_NAME).write_text(json.dumps(asdict(replace(this_process(), pid=DEAD_PID))))
    with locked(prefix) as me:
        assert read_owner(prefix)[0] == me
    assert left_in(prefix) == []


def test_the_number_of_a_process_in_another_container_says_nothing(prefix):
    """Two containers may have the same host name, and numbers of their own for their processes."""
    write_claim(prefix, replace(this_process(), pid=DEAD_PID, boot_id="another container"))
    with pytest.raises(RunDirectoryError, match=str(DEAD_PID)), locked(prefix):
        pass


def test_who_enters_for_ever_keeps_others_out_only_as_long_as_they_are_patient(prefix, monkeypatch):
    monkeypatch.setattr(claims, "PATIENCE", 0.0)
    monkeypatch.setattr(claims, "PAUSE", 0.0)
    write_claim(prefix, replace(this_process(), host="another-host"), held=False)
    with pytest.raises(RunDirectoryError, match="on another-host"), locked(prefix):
        pass
    assert len(left_in(prefix)) == 1


def test_a_claim_that_cannot_be_read_is_respected(prefix):
    (prefix / claims.CLAIMS / "strange").write_text("[]")
    with pytest.raises(RunDirectoryError, match="an unknown host"), locked(prefix):
        pass


def test_a_paused_owner_that_nobody_has_replaced_goes_on(prefix, sleep):
    ownership = claims.Ownership(prefix, this_process())
    ownership.enter()
    before = left_in(prefix)
    sleep(3600)
    ownership.confirm()
    assert len(set(left_in(prefix)) ^ set(before)) == 2, "with a new claim in place of the old one"
    ownership.leave()
    assert left_in(prefix) == []


def test_a_paused_owner_that_was_replaced_writes_nothing_that_counts(prefix, sleep):
    paused = claims.Ownership(prefix, this_process())
    paused.enter()
    with elsewhere(), pytest.raises(RunDirectoryError, match="in use"), locked(prefix):
        pass
    sleep(62)
    with elsewhere(), locked(prefix) as other:
        with pytest.raises(RunDirectoryError, match="was taken over while this process was silent"):
            paused.confirm()
        assert not paused.keep()
        paused.leave()
        assert read_owner(prefix)[0] == other
    assert left_in(prefix) == []


def test_an_owner_whose_successor_has_come_and_gone_notices(prefix, sleep):
    paused = claims.Ownership(prefix, this_process())
    paused.enter()
    sleep(62)
    with elsewhere(), locked(prefix):
        pass
    with pytest.raises(RunDirectoryError, match="was taken over"):
        paused.confirm()
    paused.leave()
    assert left_in(prefix) == []


def test_a_heartbeat_in_a_store_renews_the_time_and_keeps_the_owner(prefix, monkeypatch):
    monkeypatch.setattr(lock, "HEARTBEAT_SECONDS", 0.05)
    with locked(prefix) as me:
        ((key, written),) = prefix.times_below(claims.CLAIMS).items()
        wait_for(lambda: prefix.times_below(claims.CLAIMS)[key] != written)
        assert read_owner(prefix)[0] == me
