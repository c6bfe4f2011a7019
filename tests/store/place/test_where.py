"""Addresses, and objects that read and write like files."""

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.core.errors import ConfigError, StorageError
from pipeline.store.place.atomic import remove_tree, set_aside, write_atomic
from pipeline.store.place.objects import ObjectPath
from pipeline.store.place.where import each, found, place, relative
from pipeline.store.run.files import (
    DamagedFileError,
    read_footer,
    read_parquet,
    read_tensors,
    write_parquet,
    write_tensors,
)
from tests.object_store import KEYS, folder_in, serving

both = pytest.mark.parametrize("shelf", ["local", "s3"], indirect=True)


# --- addresses ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("s3://bucket/circuits/", "s3://bucket/circuits"),
        ("s3://bucket", "s3://bucket"),
        (
            "s3://b/x?endpoint_override=localhost:9000&scheme=http",
            "s3://b/x?endpoint_override=http://localhost:9000",
        ),
        (
            "s3://b/x?endpoint_override=http%3A%2F%2Flocalhost%3A9000",
            "s3://b/x?endpoint_override=http://localhost:9000",
        ),
        ("s3://b/x?endpoint_override=minio:9000", "s3://b/x?endpoint_override=https://minio:9000"),
        ("s3://b/x?region=eu-west-1", "s3://b/x?region=eu-west-1"),
    ],
)
def test_an_address_of_a_store_comes_back_as_it_was_meant(address, shown):
    path = place(address)
    assert isinstance(path, ObjectPath)
    assert str(path) == shown
    assert place(shown) == path == pickle.loads(pickle.dumps(path))
    assert str(path / "task=a" / "x.json").startswith(shown.partition("?")[0] + "/task=a/x.json")
    assert (path / "a" / "b").parent == path / "a"


def test_anything_else_is_a_folder():
    assert place("results/x") == Path("results/x")
    assert place(Path("x")) == Path("x")
    assert place("a:b//c") == Path("a:b//c")


@pytest.mark.parametrize(
    "address",
    [
        "s3://AKIAEXAMPLE:topsecret@bucket/x",
        "s3://bucket/x?access_key=AKIAEXAMPLE&secret_key=topsecret",
        "s3://bucket/x?session_token=topsecret",
        "s3://bucket/x?endpoint_override=http://AKIAEXAMPLE:topsecret@host:9000",
    ],
)
def test_an_address_with_credentials_is_refused_and_not_repeated(address):
    with pytest.raises(ConfigError, match="AWS_ACCESS_KEY_ID") as caught:
        place(address)
    assert "AKIAEXAMPLE" not in str(caught.value)
    assert "topsecret" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("gs://bucket/x", "s3://bucket/folder"),
        ("file:///x", "give a folder"),
        ("s3://", "s3://bucket/folder"),
        ("s3://bucket/a/../b", r"'\.\.'"),
        ("s3://bucket/x?endpiont_override=y", "endpoint_override"),
    ],
)
def test_an_address_that_means_nothing_is_one_line(address, words):
    with pytest.raises(ConfigError, match=words) as caught:
        place(address)
    assert "\n" not in str(caught.value)


# --- contents ----------------------------------------------------------------------------------------------


@both
def test_folders_and_stores_answer_alike(shelf):
    path = shelf / "a" / "b.txt"
    assert not path.exists()
    assert found(shelf, "**/*") == []
    write_atomic(path, "é")
    write_atomic(shelf / "c.txt", lambda draft: draft.write_bytes(b"12"))
    assert (path.exists(), path.is_file(), path.is_dir()) == (True, True, False)
    assert ((shelf / "a").exists(), (shelf / "a").is_file(), (shelf / "a").is_dir()) == (True, False, True)
    assert path.read_text(encoding="utf-8") == "é"
    assert path.stat().st_size == 2
    assert sorted(p.name for p in shelf.iterdir()) == ["a", "c.txt"]
    assert found(shelf, "**/*.txt") == sorted([path, shelf / "c.txt"], key=str)
    assert found(shelf, "*.txt") == [shelf / "c.txt"]
    assert found(shelf, "a/*.t?t") == [path]
    assert str(relative(path, shelf)) == "a/b.txt"
    set_aside(path)
    (aside,) = found(shelf, "a/_bad-*-b.txt")
    assert aside.read_bytes() == "é".encode()
    set_aside(path)  # gone already
    remove_tree(shelf / "a")
    assert found(shelf, "a/*") == []
    (shelf / "c.txt").unlink()
    with pytest.raises(FileNotFoundError):
        (shelf / "c.txt").unlink()
    with pytest.raises(FileNotFoundError):
        (shelf / "c.txt").read_bytes()
    with pytest.raises(FileNotFoundError):
        (shelf / "c.txt").stat()
    assert list(each(shelf, str, range(40))) == [str(i) for i in range(40)]


@both
def test_files_with_footers_are_the_same_bytes_wherever_they_lie(shelf, tmp_path):
    table = pa.table({"x": np.arange(100_000, dtype=np.float32)})
    arrays = {"means": np.ones((3, 4))}
    for folder in (shelf, tmp_path / "beside"):
        write_parquet(folder / "t.parquet", table, {"fact": 1})
        write_tensors(folder / "t.safetensors", arrays, {"fact": 1})
    assert (shelf / "t.parquet").read_bytes() == (tmp_path / "beside" / "t.parquet").read_bytes()
    assert read_footer(shelf / "t.parquet")["fact"] == "1"
    assert read_parquet(shelf / "t.parquet").equals(table)
    assert read_tensors(shelf / "t.safetensors").keys() == arrays.keys()
    (shelf / "t.parquet").write_bytes((shelf / "t.parquet").read_bytes()[:-3])
    with pytest.raises(DamagedFileError):
        read_footer(shelf / "t.parquet")


@pytest.mark.parametrize("shelf", ["s3"], indirect=True)
def test_a_large_object_is_uploaded_in_parts_and_is_whole(shelf):
    content = np.random.default_rng(0).bytes(12_000_000)
    write_atomic(shelf / "large", content)
    assert hashlib.sha256((shelf / "large").read_bytes()).digest() == hashlib.sha256(content).digest()


# --- what goes wrong ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("shelf", ["s3"], indirect=True)
def test_a_store_that_fails_in_the_middle_of_reading_is_no_damage(shelf, monkeypatch):
    write_parquet(shelf / "t.parquet", pa.table({"x": [1]}), {})

    def refuses(self, buffer):
        raise StorageError("slow down")

    monkeypatch.setattr("pipeline.store.place.objects._Ranges.readinto", refuses)
    for read in (read_footer, read_parquet):
        with pytest.raises(StorageError, match="slow down"):
            read(shelf / "t.parquet")


def test_a_store_that_refuses_some_writes_is_asked_again(tmp_path):
    with serving(fail=0.2) as bucket:
        folder = folder_in(bucket)
        for number in range(20):
            (folder / f"{number}").write_text(str(number))
        assert [(folder / f"{n}").read_text() for n in range(20)] == [str(n) for n in range(20)]


@pytest.mark.parametrize("shelf", ["s3"], indirect=True)
def test_an_upload_that_stays_short_is_removed_and_told(shelf, monkeypatch):
    import io

    with pytest.raises(StorageError, match="3 of 5 bytes"):
        (shelf / "x").put(io.BytesIO(b"abc"), 5)
    assert not (shelf / "x").exists()


def test_a_bucket_that_is_not_there_is_one_line_without_secrets(object_store):
    nowhere = place(f"s3://no-such-bucket?endpoint_override={object_store.store.endpoint}")
    with pytest.raises(StorageError, match="NO_SUCH_BUCKET") as caught:
        write_atomic(nowhere / "x", "x")
    assert "\n" not in str(caught.value)
    assert not any(secret in str(caught.value) for secret in list(KEYS.values())[:2])
