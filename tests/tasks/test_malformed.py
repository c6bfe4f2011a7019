"""Files that cannot be read as they are: each one line that names file, line and mend, and what would read it."""

import gzip
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import PromptError
from pipeline.schedule import make_plan
from tests.runs import toy_config

GOOD = {"clean": [1, 2, 3, 1], "corrupted": [1, 2, 3, 4], "answers": [2], "wrong_answers": [3]}
IOI = {
    "prompt": "Then, Mary",
    "choices": ["Mary", "John"],
    "answerKey": 0,
    "s2_io_flip_counterfactual": {"prompt": "Then, John", "choices": ["Mary", "John"], "answerKey": 1},
}


def jsonl(second):
    """A good line, and another."""
    other = second if isinstance(second, str) else json.dumps(second)
    return f"{json.dumps(GOOD)}\n{other}\n".encode()


def without(field):
    return {name: value for name, value in GOOD.items() if name != field}


def parquet(*rows):
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([*rows]), out)
    return out.getvalue()


def mib(**changes):
    return json.dumps([IOI | changes]).encode()


# By name of the file or folder: what is in it, and what is said of it.
FILES = {
    "broken.jsonl": (jsonl('{"clean": [1, 2'), r":2: not valid JSON .*; write one JSON object per line"),
    "list.jsonl": (jsonl("[1, 2]"), r":2: a list where an object .*; write one object per line"),
    "no-answers.jsonl": (jsonl(without("answers")), r":2: the field 'answers' is missing; each pair needs"),
    "empty-answers.jsonl": (
        jsonl(GOOD | {"answers": []}),
        r":2: 'answers' is empty; give the piece that follows",
    ),
    "no-corrupted.jsonl": (
        jsonl(without("corrupted")),
        r":2: the field 'corrupted' is missing; each pair needs",
    ),
    "lengths.jsonl": (
        jsonl(GOOD | {"corrupted": [1]}),
        r":2: clean has 4 tokens and corrupted 1; .* rewrite one",
    ),
    "both.jsonl": (jsonl(GOOD | {"wrong_answers": [2]}), r":2: token 2 is both .* answer; keep it in one"),
    "vocabulary.jsonl": (
        jsonl(GOOD | {"answers": [10**6]}),
        r":2: token id 1000000 is outside .*; give ids from 0",
    ),
    "mixture.jsonl": (
        jsonl(GOOD | {"clean": "Mary"}),
        r":2: one prompt is text and .*; write both the same way",
    ),
    "float.jsonl": (
        jsonl(GOOD | {"answers": [2.5]}),
        r":2: 'answers' holds the number 2\.5; give a text piece",
    ),
    "misspelt.jsonl": (
        jsonl(GOOD | {"wrong_answer_s": [3]}),
        r":2: unknown field .*; did you mean 'wrong_answers'\?",
    ),
    "half.jsonl": (
        jsonl('{"clean": "a \\ud800", "corrupted": "b", "answers": ["c"]}'),
        r":2: 'clean' holds half a character .*; write the whole",
    ),
    "latin.jsonl": (
        jsonl("") + b'{"clean": "caf\xe9"}',
        r":3: not UTF-8 \(byte 0xe9\); save the file as UTF-8",
    ),
    "span.jsonl": (
        jsonl(GOOD | {"spans": {"s": [2, 9]}}),
        r":2: the span 's' is \[2, 9\) .*; give the first token",
    ),
    "several.jsonl": (
        jsonl(GOOD | {"answers": [[2, 3]]}),
        r":2: the answer \[2, 3\] is 2 tokens; give one, or set target: sequence",
    ),
    "nothing.jsonl": (b"", r": no prompt pairs in it; give at least one with the fields clean"),
    "zipped.jsonl": (gzip.compress(jsonl(GOOD)), r": is gzipped; unpack it, or name it zipped\.jsonl\.gz"),
    "torn.jsonl.gz": (gzip.compress(jsonl(GOOD))[:-9], r": not a whole gzip file .*; write it again"),
    "cells.csv": (
        b"clean,corrupted,answers\na,b,c,d\n",
        r":2: 4 cells where the header has 3; put double quotes",
    ),
    "quotes.csv": (b'clean,corrupted,answers\n"a","b"c,d\n', r":2: not valid CSV .*; mend the quotes"),
    "twice.csv": (
        b"clean,corrupted,answers,answers\na,b,c,d\n",
        r":1: the column 'answers' occurs twice; remove",
    ),
    "shortened.csv": (
        b"clean,corrupted,answers\n[1 2 ... 8 9],[1 2 ... 8 7],4\n",
        r":2: 'clean' is a list that numpy has shortened .*; write all of it",
    ),
    "float.csv": (
        b"clean,corrupted,answers\nMary,John,302.0\n",
        r":2: .*: write \[302\] if it is a token id, and",
    ),
    "hypernymy.csv": (
        b"clean,corrupted,answers_idx,corrupted_answers_idx\na,b,[5],[6]\n",
        r":1: .*; or read it with preset: eap_ig_hypernymy",
    ),
    "text.parquet": (b"clean,corrupted\n", r": not a readable Parquet file .*; write it again"),
    "torn.parquet": (parquet(GOOD)[:-20], r": not a readable Parquet file .*; write it again"),
    "kinds.parquet": (
        parquet({"clean": 1.5, "corrupted": 2.5, "answers": 3}),
        r":1: 'clean' is the number 1\.5; give text or a list of token ids",
    ),
    "others.parquet": (
        parquet({"prompt": "a", "other": "b", "target": "c"}),
        r":1: .*; or say which column is which with columns: \{clean: NAME, corrupted: NAME, answers: NAME\}",
    ),
    "ioi.parquet": (parquet(IOI), r":1: .*; or read it with preset: mib_ioi"),
    "document.json": (b'{"pairs": []}', r": an object where a list of objects, or one under .*; write it so"),
    "number.json": (b"[1]", r":1: the number 1 where an object with the fields clean"),
    "auto-circuit.json": (
        b'{"prompts": [{"clean": "a", "corrupt": "b"}]}',
        r":1: the field 'answers' is missing; .*; or say which column is which with columns",
    ),
    "sheet.csv": (
        b"PK\x03\x04",
        r": is a zip archive or a spreadsheet; unpack it, or save it as CSV in UTF-8",
    ),
    "sheet.xlsx": (b"PK\x03\x04", r": prompt pairs are read from \.jsonl, .*; convert it to one of these"),
}
ASKED = {
    "sva.csv": (
        b"clean,corrupted,plural\na,b,2\n",
        {"preset": "eap_ig_sva"},
        r":2: 'plural' is '2'; write 1",
    ),
    "year.csv": (
        b"clean,corrupted,label\na,b,1973\n",
        {"preset": "eap_ig_greater_than"},
        r":2: 'label' is '1973'; greater-than needs a year's last two digits",
    ),
    "mapped.parquet": (
        parquet({"prompt": "a", "other": "b"}),
        {"columns": {"clean": "prompt", "corrupted": "others"}},
        r":1: columns: corrupted: there is no column 'others'; name one of prompt, other",
    ),
    "key.json": (mib(answerKey=7), {"preset": "mib_ioi"}, r":1: 'answerKey' is '7', .*; write one of them"),
    "record.json": (
        mib(s2_io_flip_counterfactual={}),
        {"preset": "mib_ioi"},
        r":1: 's2_io_flip_counterfactual' holds no counterfactual .*; name another corrupted_field",
    ),
    "less.json": (
        json.dumps([{"prompt": "a", "choices": [], "s2_io_flip_counterfactual": {}}]).encode(),
        {"preset": "mib_ioi"},
        r":1: preset mib_ioi reads .*, and there is no column 'answerKey'; or say which column is which",
    ),
}
FOLDERS = {
    "empty": ({}, r": a folder, not a file; name a file in it, or a dataset that save_to_disk wrote"),
    "splits": ({"dataset_dict.json": b"{}"}, r": a dataset of several splits; name one of them"),
    "torn-list": (
        {"state.json": b'{"_data'},
        r"state\.json: lists no files of a dataset .*; save the dataset again",
    ),
    "no-file": (
        {"state.json": b'{"_data_files": [{"filename": "a.arrow"}]}'},
        r": the file 'a\.arrow' is missing; save the dataset again",
    ),
    "elsewhere": (
        {"state.json": b'{"_data_files": [{"filename": "../a.arrow"}]}'},
        r"state\.json: names files elsewhere .*; save the dataset again",
    ),
    "no-stream": (
        {"state.json": b'{"_data_files": [{"filename": "a.arrow"}]}', "a.arrow": b"clean"},
        r"a\.arrow: not a readable Arrow stream .*; save the dataset again",
    ),
}
CASES = {
    **{name: ({name: data}, {}, said) for name, (data, said) in FILES.items()},
    **{name: ({name: data}, asked, said) for name, (data, asked, said) in ASKED.items()},
    **{
        name: ({f"{name}/{file}": data for file, data in files.items()}, {}, said)
        for name, (files, said) in FOLDERS.items()
    },
}


@pytest.mark.parametrize("name", CASES)
def test_a_malformed_file_is_one_line_with_its_place_and_the_mend_and_nothing_is_written(tmp_path, name):
    files, asked, said = CASES[name]
    if name in FOLDERS:
        (tmp_path / name).mkdir()
    for file, data in files.items():
        (tmp_path / file).write_bytes(data)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(PromptError, match=said) as error:
        make_plan(
            toy_config(tmp_path / "out", tasks=[{"name": "file", "path": str(tmp_path / name), **asked}])
        )
    message = str(error.value)
    assert name in message
    assert "\n" not in message
    assert len(message.replace(str(tmp_path), "")) < 400
    assert sorted(tmp_path.rglob("*")) == before


def test_thirty_of_them_at_least_are_of_their_own_kind():
    assert len(CASES) >= 30
    assert len({said for *_, said in CASES.values()}) >= 30
