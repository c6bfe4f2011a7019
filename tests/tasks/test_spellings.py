"""Pairs as pandas, numpy and spreadsheets write them: read as what they were, or refused, never as other text."""

import contextlib
import gzip
import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.errors import PromptError
from pipeline.tasks import read_pairs
from pipeline.tasks.cells import CellError, read_list

FIELDS = ("clean", "corrupted", "answers", "wrong_answers")
WORDS = st.text(st.characters(exclude_categories=["C"]), min_size=1, max_size=12)
# Text that no table takes for a gap, a list or a number.
PROMPT = WORDS.map(lambda text: f"a {text}")
PIECE = WORDS.map(lambda text: f" x{text}")
ID = st.integers(0, 2**31 - 1)
TEXT_ROW = st.tuples(PROMPT, PROMPT, st.lists(PIECE, min_size=1, max_size=3), st.lists(PIECE, max_size=3))
ID_ROW = st.tuples(
    st.lists(ID, min_size=1, max_size=9),
    st.lists(ID, min_size=1, max_size=9),
    st.lists(ID, min_size=1, max_size=3),
    st.lists(ID, max_size=3),
)


def found(path):
    return [(p.clean, p.corrupted, p.answers, p.wrong_answers) for p in read_pairs(path)]


def wanted(rows):
    return [tuple(tuple(value) if isinstance(value, list) else value for value in row) for row in rows]


def wrapped(value):
    """As `np.array2string` breaks it: a few numbers a line."""
    return np.array2string(np.array(value, dtype=np.int64), max_line_width=20, threshold=10**6)


# How a list stands in a table; all but the first are text there.
LISTS = {
    "itself": lambda value: value,
    "json": json.dumps,
    "json, close": lambda value: json.dumps(value, separators=(",", ":")),
    "json, unicode": lambda value: json.dumps(value, ensure_ascii=False),
    "python": str,
    "tuple": lambda value: str(tuple(value)) if value else "[]",
    "numpy scalars": lambda value: f"[{', '.join(repr(np.array([v])[0]) for v in value)}]",
    "numpy": lambda value: str(np.array(value, dtype=object)),
    "numpy, repr": lambda value: repr(np.array(value, dtype=object)),
}
ID_LISTS = {
    **LISTS,
    "numpy": wrapped,
    "numpy, repr": lambda value: repr(np.array(value, dtype=np.int64)),
    "numpy floats": lambda value: np.array2string(
        np.array(value, dtype=float), threshold=10**6, floatmode="unique"
    ),
    "tensor": lambda value: f"tensor({value})",
    "floats": lambda value: str([float(v) for v in value]),
}


def save(frame, path):
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    elif ".jsonl" in path.name:
        frame.to_json(path, orient="records", lines=True)
    else:
        separator = {".tsv": "\t", ".semicolons": ";"}.get(path.suffixes[0], ",")
        frame.to_csv(
            path, sep=separator, encoding="utf-8-sig", lineterminator="\r\n", index=len(frame) % 2 == 0
        )
    return path


NAMES = st.sampled_from(
    ["p.csv", "p.tsv", "p.semicolons.csv", "p.csv.gz", "p.jsonl", "p.jsonl.gz", "p.parquet"]
)


@settings(max_examples=60)
@given(rows=st.lists(TEXT_ROW, min_size=1, max_size=3), spelling=st.sampled_from(sorted(LISTS)), name=NAMES)
def test_pairs_of_text_are_read_as_they_were_written(tmp_path_factory, rows, spelling, name):
    spell = LISTS[spelling]
    cells = [(clean, corrupted, spell(right), spell(wrong)) for clean, corrupted, right, wrong in rows]
    path = save(pd.DataFrame(cells, columns=FIELDS), tmp_path_factory.mktemp("p") / name)
    assert found(path) == wanted(rows)


@settings(max_examples=60)
@given(rows=st.lists(ID_ROW, min_size=1, max_size=3), spelling=st.sampled_from(sorted(ID_LISTS)), name=NAMES)
def test_pairs_of_ids_are_read_as_they_were_written(tmp_path_factory, rows, spelling, name):
    cells = [tuple(map(ID_LISTS[spelling], row)) for row in rows]
    path = save(pd.DataFrame(cells, columns=FIELDS), tmp_path_factory.mktemp("p") / name)
    assert found(path) == wanted(rows)


@settings(max_examples=30)
@given(rows=st.lists(st.tuples(ID, st.none() | ID), min_size=1, max_size=4), name=NAMES, of_ids=st.booleans())
def test_a_column_of_ids_with_gaps_is_one_of_ids(tmp_path_factory, rows, name, of_ids):
    prompt = [5, 6] if of_ids else "a b"
    frame = pd.DataFrame({"clean": [prompt] * len(rows), "corrupted": [prompt] * len(rows)})
    columns = FIELDS[2:] if of_ids else ("correct_idx", "incorrect_idx")
    for column, values in zip(columns, zip(*rows, strict=True), strict=True):
        frame[column] = np.array(values, dtype=float)  # as pandas keeps ids where one is missing
    got = found(save(frame, tmp_path_factory.mktemp("p") / name))
    assert [pair[2:] for pair in got] == [((a,), () if b is None else (b,)) for a, b in rows]


def table(tmp_path, text, name="t.csv"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


CELLS = {
    "52": ("a b", ("52",)),  # text beside text
    "[52]": ("a b", (52,)),
    '"[""52""]"': ("a b", ("52",)),
    "\"[' She' ' He']\"": ("a b", (" She", " He")),  # numpy: no comma, and not one word
    '"[\'it\\\'s\', ""x""]"': ("a b", ("it's", "x")),
    "array([7])": ("a b", (7,)),
    '"(1, 2)"': ("a b", (1, 2)),
    "(1)": ("a b", ("(1)",)),
    "]": ("a b", ("]",)),
    "[": ("a b", ("[",)),
    "True": ("a b", ("True",)),
}


@pytest.mark.parametrize("cell", CELLS)
def test_a_cell_beside_text_means(tmp_path, cell):
    assert found(table(tmp_path, f"clean,corrupted,answers\na b,a c,{cell}\n"))[0][::2] == CELLS[cell]


@pytest.mark.parametrize(
    "text", ["[INST] Hi [/INST]", "[unk] a", "[1] A note [2]", "(1 + 2) =", "array of", "[a b]"]
)
def test_text_in_brackets_is_text(tmp_path, text):
    assert found(table(tmp_path, f"clean,corrupted,answers\n{text},b,c\n"))[0][0] == text
    row = {"clean": text, "corrupted": "[1, 2", "answers": "3"}  # quoted, so that it is text
    assert found(table(tmp_path, json.dumps(row), "t.jsonl"))[0][:3] == (text, "[1, 2", ("3",))


HEAD = "clean,corrupted,answers\n"
IDX = "clean,corrupted,correct_idx,incorrect_idx\n"
REFUSED = {
    "numpy has shortened it": (
        HEAD + "[0 1 ... 8 9],[1],2\n",
        ":2: 'clean' is a list that numpy has shortened",
    ),
    "torn": (HEAD + '"[5, 6",[7],2\n', r":2: 'clean' begins like a list .* write lists as JSON: \[5, 6, 7\]"),
    "torn words": (HEAD + "a,b,[' She'\n", ":2: 'answers' begins like a list"),
    "a word between": (HEAD + "[5 x 6],[7],2\n", ":2: 'clean' begins like a list"),
    "run together": (HEAD + "[5-6],[7],2\n", ":2: 'clean' begins like a list"),
    "half an id": (IDX + "a,b,1,302.5\n", ":2: 'wrong_answers' holds the number 302.5 in 'incorrect_idx'"),
    "a word as id": (IDX + "a,b,She,1\n", ":2: 'answers' holds the text 'She' in 'correct_idx', which is no"),
    "true as id": (IDX + "a,b,True,1\n", ":2: 'answers' holds the text 'True' in 'correct_idx'"),
    "5,000 digits": (
        IDX + f"a,b,{'9' * 5000},1\n",
        ":2: 'answers' holds a number of 5,000 digits in 'correct_idx'",
    ),
    "5,000 digits in a list": (
        HEAD + f"[{'9' * 5000}],[1],1\n",
        ":2: 'clean' holds a number of 5,000 digits",
    ),
    "300 digits": (HEAD + f"[{'9' * 300}],[1],1\n", ":2: 'clean' is a list"),
    "half an id beside ids": (
        HEAD + "[1],[2],1.5\n",
        ":2: 'answers' holds the number 1.5, which is no token id",
    ),
    "no id beside ids": (HEAD + "[1],[2],-1\n", ":2: 'answers' holds the number -1, which is no token id"),
    "words of digits beside ids": (
        HEAD + "[1],[2],['1']\n",
        ":2: 'answers' holds the text '1' beside prompts of",
    ),
    "a float beside text": (
        HEAD + "a,b,302.0\n",
        r":2: 'answers' holds '302.0': write \[302\] if it is a token id",
    ),
    "a gap beside ids": (HEAD + "[1],[2],None\n", ":2: the field 'answers' is missing"),
    "a gap": (HEAD + "a,nan,c\n", ":2: the field 'corrupted' is missing"),
    "a prompt of half": (HEAD + "[1.5],[2],3\n", ":2: 'clean' is a list; give text or a list of token ids"),
    "a gap in a prompt": (
        HEAD + "[1. nan],[2],3\n",
        ":2: 'clean' is a list; give text or a list of token ids",
    ),
    "100,000 columns": (",".join(f"x{i}" for i in range(100_000)), ":1: 100,000 columns are more than 1,000"),
    "years": (
        "clean,corrupted,correct_idx\na,b,52\n",
        ":2: 'correct_idx' without 'incorrect_idx' beside text may be",
    ),
    "a misspelt column": (
        "Clean,corrupted,answers\na,b,c\n",
        ":1: unknown field 'Clean'; did you mean 'clean'",
    ),
    "a second column of pandas": (
        "clean,clean.1,answers\na,b,c\n",
        ":1: unknown field 'clean.1'; did you mean",
    ),
    "wrong": (
        HEAD.replace("answers", "answers,wrong") + "a,b,c,d\n",
        ":1: unknown field 'wrong'; did you mean",
    ),
    "another encoding": ((HEAD + "a,b,c\n").encode("utf-16"), r"t\.csv:1: not UTF-8 \(byte 0xff\)"),
    "a spreadsheet": (b"PK\x03\x04abc", "is a zip archive or a spreadsheet; .* save it as CSV"),
    "gzip without its name": (gzip.compress(HEAD.encode()), r"is gzipped; unpack it, or name it t\.csv\.gz"),
    "quotes without an end": (HEAD + '"' + "a" * 200_000, r"\.csv:\d: not valid CSV .* close the quotes"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_means_nothing_is_refused_in_one_line(tmp_path, kind):
    text, message = REFUSED[kind]
    with pytest.raises(PromptError, match=message) as caught:
        read_pairs(table(tmp_path, text))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


ROWS = {
    "digits as id": ({"correct_idx": "She", "incorrect_idx": 1}, "holds the text 'She' in 'correct_idx'"),
    "text of digits beside ids": (
        {"clean": [1], "corrupted": [2], "answers": "9"},
        "holds the text '9' beside",
    ),
    "a quoted list beside text": (
        {"clean": "[1, 2]", "corrupted": "[1, 3]", "answers": " a"},
        "the prompts are lists written as text, and the answers are text",
    ),
    "an id beyond all": ({"answers": 2**31}, "holds the number 2147483648"),
    "an id of 4,000 digits": ({"answers": int("9" * 4000)}, "holds a number of over 400 digits"),
    "1e400": ({"answers": float("inf")}, "not valid JSON"),
    "100,000 fields": ({f"x{i}": 1 for i in range(100_000)}, "columns are more than 1,000"),
}


@pytest.mark.parametrize("kind", ROWS)
def test_a_row_of_json_that_means_nothing_is_refused_in_one_line(tmp_path, kind):
    changes, message = ROWS[kind]
    row = {"clean": "a", "corrupted": "b"} | changes
    with pytest.raises(PromptError, match=rf"t\.jsonl:1: .*{message}") as caught:
        read_pairs(table(tmp_path, json.dumps(row), "t.jsonl"))
    assert len(str(caught.value)) < 500


def test_a_key_given_twice_among_many_is_found_at_once(tmp_path):
    row = "{" + ", ".join(f'"x{i}": 1' for i in range(100_000)) + ', "x99999": 2}'
    with pytest.raises(PromptError, match="the key 'x99999' is given twice"):
        read_pairs(table(tmp_path, row, "t.jsonl"))


def test_ids_written_as_text_are_ids_in_a_column_of_ids(tmp_path):
    row = {"clean": "a", "corrupted": "b", "correct_idx": "302.0", "incorrect_idx": "7"}
    assert found(table(tmp_path, json.dumps(row), "t.jsonl"))[0][2:] == ((302,), (7,))


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_the_separator_is_seen(tmp_path, separator):
    head, row = separator.join(FIELDS), separator.join(["a b", '"a, c"', "d", "e"])
    assert found(table(tmp_path, f"{head}\n{row}\n")) == [("a b", "a, c", ("d",), ("e",))]
    assert found(table(tmp_path, f"sep={separator}\r\n{head}\r\n{row}\r\n")) == [
        ("a b", "a, c", ("d",), ("e",))
    ]


def test_lines_may_end_as_they_did_on_old_machines(tmp_path):
    assert found(table(tmp_path, 'clean,corrupted,answers\r"a\rb",c,d\re,f,g\r'))[0][0] == "a\rb"


def test_other_columns_are_kept_beside_the_pair(tmp_path):
    text = "id,clean,corrupted,answers,wrong_answers,note,answer_type,corrupted_hard\n7,a,b,c,d,,name,e\n"
    (pair,) = read_pairs(table(tmp_path, text))
    assert pair.notes == {"id": "7", "answer_type": "name"}
    row = {"clean": "a", "corrupted": "b", "answers": "c", "id": 7, "tags": ["x", {"y": 1.5}], "none": None}
    (pair,) = read_pairs(table(tmp_path, json.dumps(row), "t.jsonl"))
    assert pair.notes == {"id": 7, "tags": ["x", {"y": 1.5}]}
    when = pd.Timestamp("2001-02-03")
    frame = pd.DataFrame([{"clean": "a", "corrupted": "b", "answers": "c", "when": when, "n": 1.0}])
    frame.to_parquet(tmp_path / "t.parquet")
    (pair,) = read_pairs(tmp_path / "t.parquet")
    assert pair.notes == {"when": "2001-02-03 00:00:00", "n": "1.0"}


def test_spans_are_read_as_python_writes_them(tmp_path):
    frame = pd.DataFrame(
        [{"clean": "a b", "corrupted": "a c", "answers": "d", "spans": {"x": "b", "y": (0, 1)}}]
    )
    frame.to_csv(tmp_path / "t.csv")
    assert read_pairs(tmp_path / "t.csv")[0].spans == {"x": "b", "y": (0, 1)}


@given(text=st.text("[]()'\", .-15axnp\\\n", max_size=12))
def test_nothing_is_executed_and_nothing_breaks(text):
    with contextlib.suppress(CellError):
        assert isinstance(read_list(text), list | None)
