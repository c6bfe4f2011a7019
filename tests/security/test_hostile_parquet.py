"""Parquet files in run directories that somebody else has made: refused or computed anew, and never unpickled."""

import json
import pickle
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import load_scores, open_run
from pipeline.store.run.files import _seal, read_footer, read_parquet, write_parquet
from tests.security.conftest import refused
from tests.security.hostile import SHARD, call
from tests.slowly import slow

MERGED = "aggregate/task=induction/method=eap/merged.parquet"


def forged(path: Path, table: pa.Table | None = None, **facts) -> None:
    """Writes the file anew with other values or facts, sealed like one of ours."""
    written = read_parquet(path) if table is None else table
    write_parquet(path, written, {**read_footer(path), **facts})


def with_column(path: Path, name: str, values) -> pa.Table:
    table = read_parquet(path)
    place = table.schema.get_field_index(name)
    return table.set_column(place, table.field(place), values)


def named(path: Path, column: str, name: str) -> pa.Table:
    """The table with one of its names replaced."""
    found = read_parquet(path)[column].combine_chunks()
    names = [name, *found.dictionary.to_pylist()[1:]]
    return with_column(path, column, pa.DictionaryArray.from_arrays(found.indices, names))


def cmd(path):
    forged(path, named(path, "sender", "=HYPERLINK(1)"))


def script(path):
    forged(path, named(path, "receiver", "<script>alert(1)</script>"))


def far_ids(path):
    table = read_parquet(path)
    forged(path, with_column(path, "edge_id", pa.array([10**9] * len(table), pa.int32())))


def negative_ids(path):
    table = read_parquet(path)
    forged(path, with_column(path, "edge_id", pa.array([-1] * len(table), pa.int32())))


def swapped(path):
    forged(
        path,
        with_column(path, "edge_id", pa.array(read_parquet(path)["edge_id"].to_pylist()[::-1], pa.int32())),
    )


def formula_span(path):
    table = read_parquet(path)
    forged(path, with_column(path, "span", pa.array(["=cmd|'/C calc'!A0"] * len(table)).dictionary_encode()))


def other_schema(path):
    forged(path, pa.table({"a": [1]}))


def two_of_a_name(path):
    table = read_parquet(path)
    forged(path, table.append_column("score", table["score"]))


def no_seal(path):
    pq.write_table(read_parquet(path), path)


def truncated(path):
    path.write_bytes(path.read_bytes()[:-200])


def not_parquet(path):
    path.write_bytes(pickle.dumps({"a": 1}))


def bomb(path):
    table = read_parquet(path)
    many = pa.concat_tables([table.slice(0, 1)] * 2).combine_chunks().take(pa.array([0] * 5_000_000))
    forged(path, many)


def asks_to_be_unpickled(path, pickled):
    """A column more, of a type that old versions of Arrow unpickled."""
    metadata = {"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": pickled}
    table = read_parquet(path)
    extra = pa.field("extra", pa.string(), metadata=metadata)
    forged(path, table.append_column(extra, [["x"] * len(table)]))


LARGE = "5 million rows in a few kilobytes"
FILES = {
    "a formula as a sender": (cmd, "does not name"),
    "a script as a receiver": (script, "does not name"),
    "ids beyond the graph": (far_ids, "not among the graph's"),
    "ids below zero": (negative_ids, "not among the graph's"),
    "ids of other names": (swapped, "does not name"),
    "a formula as a span": (formula_span, "none can be called"),
    "other columns": (other_schema, "column"),
    "two columns of a name": (two_of_a_name, "one name"),
    "no seal": (no_seal, "footer"),
    "torn": (truncated, ""),
    "a pickle": (not_parquet, ""),
    LARGE: (bomb, "it claims"),
}


@pytest.mark.parametrize("verb", ["show", *slow("report", "export")])
@pytest.mark.parametrize("case", FILES)
def test_merged_scores(circuits, run, verb, case):
    spoil, words = FILES[case]
    spoil(run / MERGED)
    refused(call(circuits, verb, run), [1], ["merged.parquet", "damaged", words, "circuits resume"])


MENDED = ("ids of other names", "torn", "a pickle")


@pytest.mark.parametrize("case", [*slow(*(case for case in FILES if case not in MENDED)), *MENDED])
def test_scores_of_a_shard_are_computed_anew(circuits, run, case):
    """A file that is not what an item holds is not done; resuming sets it aside and mends the run."""
    before = load_scores(run)
    FILES[case][0](run / SHARD)
    said = call(circuits, "resume", run)
    assert said.code == 0, said
    assert "Traceback" not in said.err
    assert [path.name[:5] for path in (run / SHARD).parent.glob("_bad*")] == ["_bad-"]
    assert load_scores(run).equals(before)


@pytest.mark.parametrize("name", [SHARD, MERGED], ids=["shard", "merged"])
@pytest.mark.parametrize("case", [*(case for case in FILES if case != LARGE), *slow(LARGE)])
def test_verify_names_such_a_file(circuits, run, name, case):
    FILES[case][0](run / name)
    said = circuits("verify", run)
    assert said.code == 3
    assert said.err == ""
    (line,) = [line for line in said.out.splitlines() if line.startswith(f"{name}: ")]
    assert line.endswith(f"; next: circuits resume {run}")
    assert "1 damaged" in said.out


def test_a_forged_item_key(circuits, run):
    forged(run / SHARD, item_key="0" * 64)
    said = circuits("status", run, "--json")
    assert said.code == 3
    assert said.data["missing"] == 1
    assert call(circuits, "resume", run).code == 0


def test_metadata_for_pandas_steers_nothing(circuits, run):
    """Rows, index and columns are those of the schema, whatever another reader is told."""
    told = {
        "index_columns": ["score"],
        "columns": [{"name": "edge_id", "pandas_type": "object"}],
        "pandas_version": "1",
    }
    table = read_parquet(run / MERGED)
    before = load_scores(run)
    forged(run / MERGED, table.replace_schema_metadata({"pandas": json.dumps(told)}))
    assert load_scores(run).equals(before)


def test_a_footer_that_claims_other_rows(circuits, run):
    path = run / MERGED
    facts = {**read_footer(path), "rows": str(10**12)}
    pq.write_table(read_parquet(path).replace_schema_metadata(_seal(facts)), path)
    refused(circuits("show", run), [1], ["merged.parquet", "rows where 1000000000000 were written"])


def test_a_parquet_file_that_asks_to_be_unpickled(circuits, place, run):
    asks_to_be_unpickled(run / MERGED, place.bomb)
    assert circuits("show", run).code == 0


@pytest.mark.parametrize("text", ["[1]", "{", "<script>alert(1)</script>", '{"torch": ["x"]}'])
def test_facts_of_a_footer(circuits, run, text):
    forged(run / SHARD, versions=text, seconds="\x1b[2J", device="<b>", attempt="NaN")
    assert circuits("show", run).code == 0
    assert circuits("report", run).code == 0
    assert "<script" not in (run / "report.html").read_text()
    open_run(run).footers()


def test_faithfulness_of_another_run(circuits, run):
    path = run / "faithfulness.parquet"
    table = read_parquet(path)
    forged(path, with_column(path, "method", pa.array(["<script>"] * len(table))))
    for verb in ("show", "report"):
        refused(call(circuits, verb, run), [1], ["faithfulness.parquet", "another run"])


def test_prompts_of_another_shape(circuits, run):
    forged(run / "prompts.parquet", pa.table({"task": ["induction"]}))
    refused(circuits("report", run), [1], ["prompts.parquet", "cannot be read"])
