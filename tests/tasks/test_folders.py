"""Folders of datasets as `datasets` saves them: a list of Arrow streams, read as any other table."""

import json

import pyarrow as pa
import pytest

from pipeline.core.errors import PromptError
from pipeline.tasks import FileTask, read_pairs

ROWS = [
    {"clean": f"The keys {i}", "corrupted": f"The key {i}", "answers": [" are"], "wrong_answers": [" is"]}
    for i in range(5)
]


def save(folder, rows, files=2, **state):
    """As `Dataset.save_to_disk` does."""
    folder.mkdir(parents=True)
    names = [f"data-{i:05d}-of-{files:05d}.arrow" for i in range(files)]
    size = -(-len(rows) // files)
    for i, name in enumerate(names):
        table = pa.Table.from_pylist(
            rows[i * size : (i + 1) * size], schema=pa.Table.from_pylist(rows).schema
        )
        with pa.OSFile(str(folder / name), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
            stream.write_table(table, max_chunksize=2)
    listed = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "x", "_split": "train"}
    (folder / "state.json").write_text(json.dumps(listed | state))
    (folder / "dataset_info.json").write_text("{}")
    return folder


def test_a_folder_of_a_dataset_is_read_in_the_order_of_its_rows(tmp_path):
    folder = save(tmp_path / "train", ROWS)
    pairs = read_pairs(folder)
    assert [pair.clean for pair in pairs] == [row["clean"] for row in ROWS]
    assert [pair.source for pair in pairs] == [f"train:{i}" for i in range(1, 6)]
    shares = [share for _, share in FileTask(path=str(folder)).portions(None, 0, size=2)]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_a_folder_is_read_with_a_mapping_as_a_file_is(tmp_path):
    rows = [{"prompt": "a", "cf": {"prompt": "b"}, "answers": " c", "note": 3}]
    (pair,) = read_pairs(save(tmp_path / "d", rows, 1), columns={"clean": "prompt", "corrupted": "cf.prompt"})
    assert (pair.clean, pair.corrupted, pair.answers, pair.notes) == ("a", "b", (" c",), {"note": 3})


def test_a_dataset_of_several_splits_names_them(tmp_path):
    save(tmp_path / "d" / "train", ROWS)
    save(tmp_path / "d" / "test", ROWS)
    (tmp_path / "d" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(PromptError, match=r"d: a dataset of several splits; name one of them: test, train"):
        read_pairs(tmp_path / "d")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "state.json").unlink(), r"d: a folder, not a file; name a file in it"),
        (lambda folder: (folder / "state.json").write_text("{"), r"state\.json: lists no files of a dataset"),
        (
            lambda folder: (folder / "state.json").write_text("[]"),
            r"state\.json: lists no files of a dataset",
        ),
        (
            lambda folder: (folder / "state.json").write_text('{"_data_files": [{"filename": "../x"}]}'),
            r"names files elsewhere",
        ),
        (
            lambda folder: next(folder.glob("*.arrow")).unlink(),
            r"the file 'data-.*' is missing; save the dataset again",
        ),
        (lambda folder: next(folder.glob("*.arrow")).write_bytes(b"x" * 99), r"not a readable Arrow stream"),
    ],
)
def test_a_spoilt_folder_is_named_with_the_mend(tmp_path, spoil, message):
    folder = save(tmp_path / "d", ROWS)
    spoil(folder)
    with pytest.raises(PromptError, match=message) as caught:
        read_pairs(folder)
    assert "\n" not in str(caught.value)


def test_rows_chosen_by_indices_are_refused_with_the_mend(tmp_path):
    folder = save(tmp_path / "d", ROWS, _indices_files=[{"filename": "indices.arrow"}])
    with pytest.raises(PromptError, match=r"save dataset\.flatten_indices\(\) instead"):
        read_pairs(folder)
