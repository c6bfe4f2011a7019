"""Pairs from files: what is read, and that whatever cannot be read names its file, line and mend."""

import csv
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.errors import PromptError
from pipeline.core.prompts import PromptPair
from pipeline.tasks import FileTask, read_pairs

GOOD = {"clean": "a b", "corrupted": "a c", "answers": [" d"], "wrong_answers": [" e"]}
# Text that no format treats as anything else: no control characters, and no bracket at the start.
TEXT = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1).filter(lambda t: t[0] != "[")
PIECES = st.lists(TEXT, min_size=1, max_size=3)
IDS = st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=4)


def write(path, rows):
    """The rows in the format of the path's suffix; CSV holds lists as JSON."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            for row in rows:
                writer.writerow({k: json.dumps(v) if isinstance(v, list) else v for k, v in row.items()})
    return path


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
@settings(max_examples=30)
@given(
    rows=st.one_of(
        st.lists(st.tuples(TEXT, TEXT, PIECES, PIECES), min_size=1, max_size=4),
        st.lists(st.tuples(IDS, IDS, IDS, IDS), min_size=1, max_size=4),
    )
)
def test_what_is_written_is_read(tmp_path_factory, suffix, rows):
    path = tmp_path_factory.mktemp("pairs") / f"pairs.{suffix}"
    write(path, [dict(zip(GOOD, row, strict=True)) for row in rows])
    wanted = [tuple(tuple(v) if isinstance(v, list) else v for v in row) for row in rows]
    assert [(p.clean, p.corrupted, p.answers, p.wrong_answers) for p in read_pairs(path)] == wanted


def test_every_pair_says_where_it_comes_from(tmp_path):
    lines = [json.dumps(GOOD), "", json.dumps(GOOD | {"clean": "x"})]
    path = tmp_path / "few.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    assert [pair.source for pair in read_pairs(path)] == ["few.jsonl:1", "few.jsonl:3"]


def test_a_csv_line_is_counted_where_it_starts(tmp_path):
    path = tmp_path / "few.csv"
    path.write_text('clean,corrupted,answers\n"a\nb",c,d\ne,f,g\n', encoding="utf-8")
    first, second = read_pairs(path)
    assert (first.clean, first.source) == ("a\nb", "few.csv:2")
    assert (second.clean, second.source) == ("e", "few.csv:4")


def test_corrupt_is_another_word_for_corrupted_and_one_answer_needs_no_list(tmp_path):
    path = write(tmp_path / "one.jsonl", [{"clean": "a", "corrupt": "b", "answers": " c"}])
    assert read_pairs(path) == [PromptPair("a", "b", (" c",), (), "one.jsonl:1")]


def test_columns_of_eap_ig_are_read_with_ids_and_without_the_index(tmp_path):
    path = tmp_path / "ioi.csv"
    path.write_text(
        ",clean,corrupted,corrupted_hard,correct_idx,incorrect_idx\n7,a b,a c,a d,11,12\n", encoding="utf-8"
    )
    assert read_pairs(path) == [PromptPair("a b", "a c", (11,), (12,), "ioi.csv:2")]
    task = FileTask(path=str(path), corrupted_field="corrupted_hard")
    assert task.pairs(None, 0)[0].corrupted == "a d"


def test_a_file_from_a_spreadsheet_is_read(tmp_path):
    path = tmp_path / "excel.csv"
    path.write_bytes(b"\xef\xbb\xbfclean,corrupted,answers\r\na,b,52\r\n")
    assert read_pairs(path) == [PromptPair("a", "b", ("52",), (), "excel.csv:2")]


def test_limit_takes_the_first_pairs(tmp_path):
    path = write(tmp_path / "many.jsonl", [GOOD | {"clean": f"a {i}"} for i in range(5)])
    assert [pair.clean for pair in FileTask(path=str(path), limit=2).pairs(None, 0)] == ["a 0", "a 1"]


def test_spans_are_read_from_every_format(tmp_path):
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"name": "a", "rest": [2, 3]}, {"name": "b"}, None]
    given = [GOOD | ({} if spans is None else {"spans": spans}) for spans in rows]
    expected = [{"name": "a", "rest": (2, 3)}, {"name": "b"}, {}]

    path = write(tmp_path / "spans.jsonl", given)
    assert [pair.spans for pair in read_pairs(path)] == expected
    as_text = [GOOD | {"answers": " d", "spans": spans and json.dumps(spans)} for spans in rows]
    pd.DataFrame(as_text).drop(columns="wrong_answers").to_csv(tmp_path / "spans.csv", index=False)
    assert [pair.spans for pair in read_pairs(tmp_path / "spans.csv")] == expected
    pq.write_table(pa.Table.from_pylist(given), tmp_path / "structs.parquet")
    assert [pair.spans for pair in read_pairs(tmp_path / "structs.parquet")] == expected
    words = pa.array(
        [[("name", "a")], [("name", "b"), ("rest", "c")], None], pa.map_(pa.string(), pa.string())
    )
    table = pa.Table.from_pylist([GOOD] * 3).append_column("spans", words)
    pq.write_table(table, tmp_path / "maps.parquet")
    maps = [{"name": "a"}, {"name": "b", "rest": "c"}, {}]
    assert [pair.spans for pair in read_pairs(tmp_path / "maps.parquet")] == maps


def test_pandas_keeps_its_index_to_itself(tmp_path):
    import pandas as pd

    path = tmp_path / "frame.parquet"
    pd.DataFrame([GOOD, GOOD], index=[5, 9]).to_parquet(path)
    assert [pair.answers for pair in read_pairs(path)] == [(" d",), (" d",)]


def without(field):
    return {name: value for name, value in GOOD.items() if name != field}


BAD_LINES = {
    "malformed": ('{"clean": "a"', r":2: not valid JSON \(.*column 14\); write one JSON object per line"),
    "no object": ("[1, 2]", r":2: a list where an object with the fields clean"),
    "deep": ("[" * 100_000, r":2: (JSON nested too deeply|not valid JSON)"),
    "no clean": (without("clean"), r":2: the field 'clean' is missing"),
    "no corrupted": (without("corrupted"), r":2: the field 'corrupted' is missing"),
    "no answers": (without("answers"), r":2: the field 'answers' is missing"),
    "null": (GOOD | {"clean": None}, r":2: the field 'clean' is missing"),
    "misspelt": (GOOD | {"anwsers": 1}, r":2: unknown field 'anwsers'; did you mean 'answers'\?"),
    "both": (GOOD | {"corrupt": "x"}, r":2: both 'corrupted' and 'corrupt' are given; keep one"),
    "number": (GOOD | {"clean": 3}, r":2: 'clean' is the number 3; give text or a list of token ids"),
    "boolean ids": (GOOD | {"clean": [True]}, r":2: 'clean' is a list; give text or a list of token ids"),
    "no ids": (GOOD | {"clean": []}, r":2: 'clean' is empty; give text or a list"),
    "mixed": (GOOD | {"clean": [1, 2]}, r":2: one prompt is text and the other token ids"),
    "negative": (
        GOOD | {"answers": [-1]},
        r":2: 'answers' holds the number -1; give a text piece, a token id",
    ),
    "half": (GOOD | {"answers": 1.5}, r":2: 'answers' holds the number 1.5"),
    "empty answer": (GOOD | {"answers": ""}, r":2: 'answers' holds empty"),
    "no answer": (GOOD | {"answers": []}, r":2: 'answers' is empty; give the piece that follows"),
    "object": (GOOD | {"wrong_answers": {}}, r":2: 'wrong_answers' holds an object"),
    "spans": (
        GOOD | {"spans": "Mary"},
        r":2: 'spans' is text; give an object such as \{\"subject\": \"Mary\"\}",
    ),
    "list of spans": (GOOD | {"spans": ["Mary"]}, r":2: 'spans' is a list; give an object such as"),
    "half a span": (
        GOOD | {"spans": {"x": [1]}},
        r":2: the span 'x' is a list; give words of the clean prompt",
    ),
    "negative span": (
        GOOD | {"spans": {"x": [-2, 1]}},
        r":2: the span 'x' is a list; give words of the clean",
    ),
    "empty span": (GOOD | {"spans": {"x": ""}}, r":2: the span 'x' is empty; give words of the clean prompt"),
    "number as span": (GOOD | {"spans": {"x": 3}}, r":2: the span 'x' is the number 3; give words"),
}


@pytest.mark.parametrize("kind", BAD_LINES)
def test_a_bad_line_is_named_with_the_mend(tmp_path, kind):
    line, message = BAD_LINES[kind]
    path = tmp_path / "bad.jsonl"
    text = line if isinstance(line, str) else json.dumps(line)
    path.write_text(f"{json.dumps(GOOD)}\n{text}\n", encoding="utf-8")
    refused(path, r"bad\.jsonl" + message)


BAD_FILES = {
    "a.jsonl": (b"", r"a\.jsonl: no prompt pairs in it; give at least one"),
    "b.jsonl": (b"\n \n", r"b\.jsonl: no prompt pairs in it"),
    "c.jsonl": (b'{}\n{"clean": "\xff"}', r"c\.jsonl:2: not UTF-8 \(byte 0xff\); save the file as UTF-8"),
    "d.csv": (b"clean,corrupted,answers\n", r"d\.csv: no prompt pairs in it"),
    "e.csv": (
        b"clean,corrupted,answers\na,b\n",
        r"e\.csv:2: 2 cells where the header has 3; put double quotes",
    ),
    "f.csv": (b'clean,corrupted,answers\na,b,"c', r"f\.csv:2: not valid CSV \(.*\); mend the quotes"),
    "g.csv": (b"clean,clean,answers\na,b,c\n", r"g\.csv:1: the column 'clean' occurs twice"),
    "h.csv": (b"clean,corrupted,label\na,b,3\n", r"h\.csv:1: a 'label' column .*'answers' .*greater_than"),
    "i.csv": (b"clean,corrupted,answers\na,,c\n", r"i\.csv:2: the field 'corrupted' is missing"),
    "j.csv": (b"clean,corrupted,correct_idx\na,b,-3\n", r"j\.csv:2: 'answers' holds the number -3"),
    "k.parquet": (b"PAR1 not really", r"k\.parquet: not a readable Parquet file"),
    "l.txt": (b"a", r"l\.txt: prompt pairs are read from \.jsonl, \.csv, \.json, \.parquet; convert it"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_named_with_the_mend(tmp_path, name):
    content, message = BAD_FILES[name]
    path = tmp_path / name
    path.write_bytes(content)
    refused(path, message)


def test_a_missing_file_is_named_with_one_of_a_similar_name(tmp_path):
    (tmp_path / "pronoun.jsonl").touch()
    refused(tmp_path / "pronuon.jsonl", r"pronuon\.jsonl: no such file; did you mean pronoun\.jsonl\?")
    refused(tmp_path / "nowhere" / "x.jsonl", r"x\.jsonl: no such file; check the path")


def test_a_folder_is_no_file(tmp_path):
    (tmp_path / "folder.jsonl").mkdir()
    refused(tmp_path / "folder.jsonl", "a folder, not a file")


def refused(path, message):
    with pytest.raises(PromptError, match=message) as caught:
        read_pairs(path)
    assert "\n" not in str(caught.value)


def test_prompt_sets_of_other_projects_are_read(shared_data):
    for path in sorted((shared_data / "prompts").glob("*.jsonl")):
        assert len(read_pairs(path)) == 512
    folder = shared_data / "prompts" / "external"
    pairs = read_pairs(folder / "eap_ig_ioi_llama.csv")
    assert pairs[0].clean.startswith("Then, Aaron and Amber were working at the house. Aaron")
    assert pairs[0].answers == (47764,)
    with pytest.raises(PromptError, match=r"greater_than_data\.csv:1: a 'label' column"):
        read_pairs(folder / "eap_ig_greater_than_data.csv")
