"""Files are there whole or not at all."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.store.place.atomic import sweep_temporaries, write_atomic, write_json


def names(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_writes_text_bytes_and_what_a_function_writes(tmp_path):
    write_atomic(tmp_path / "a" / "b" / "text", "é")
    write_atomic(tmp_path / "bytes", b"\x00")
    write_atomic(tmp_path / "called", lambda path: path.write_text("called"))
    write_json(tmp_path / "x.json", {"b": 1, "a": None})
    assert (tmp_path / "a/b/text").read_text(encoding="utf-8") == "é"
    assert (tmp_path / "bytes").read_bytes() == b"\x00"
    assert (tmp_path / "called").read_text() == "called"
    assert names(tmp_path) == ["bytes", "called", "text", "x.json"]


def test_a_writer_that_dies_leaves_the_previous_version(tmp_path):
    target = tmp_path / "file"
    write_atomic(target, "old")

    def dies(path):
        path.write_text("new, but only ha")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_atomic(target, dies)
    assert target.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_the_final_name_appears_only_after_the_content_is_on_disk(tmp_path, monkeypatch):
    """At every fsync and rename, what has the final name is the old content or all of the new."""
    target = tmp_path / "file"
    write_atomic(target, "old")
    seen, synced = [], []
    real_fsync = os.fsync

    def fsync(descriptor):
        synced.append(Path(f"/proc/self/fd/{descriptor}").is_dir())
        seen.append(target.read_text())
        real_fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    write_atomic(target, "new")
    assert synced == [False, True]  # the file before the rename, the folder after it
    assert seen == ["old", "new"]


def test_temporaries_of_dead_writers_are_swept_and_fresh_ones_spared(tmp_path):
    old, fresh = tmp_path / "x" / ".shard.tmp-1", tmp_path / "x" / ".shard.tmp-2"
    old.parent.mkdir()
    for path in (old, fresh):
        path.write_text("half")
    long_ago = time.time() - 7200
    os.utime(old, (long_ago, long_ago))
    assert sweep_temporaries(tmp_path) == 1
    assert names(tmp_path) == [".shard.tmp-2"]


@pytest.mark.slow
def test_a_writer_that_is_killed_at_any_moment_leaves_a_whole_file(tmp_path):
    """Killed ten times while it replaces a file of 4 MB: what is there is one whole version, of one letter."""
    code = (
        "import sys; from pathlib import Path; from pipeline.store.place.atomic import write_atomic\n"
        "target = Path(sys.argv[1]); write_atomic(target, b'a' * 2**22); print('first', flush=True)\n"
        "while True:\n"
        "    for letter in (b'b', b'c'): write_atomic(target, letter * 2**22)\n"
    )
    target = tmp_path / "file"
    for attempt in range(10):
        writer = subprocess.Popen([sys.executable, "-c", code, str(target)], stdout=subprocess.PIPE)
        writer.stdout.readline()
        time.sleep(0.003 * attempt)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        content = target.read_bytes()
        assert len(content) == 2**22
        assert len(set(content)) == 1
