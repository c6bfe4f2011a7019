"""A seal shows every bit that flips, in what it covers and in itself."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.store.place.atomic import read_json, write_json
from pipeline.store.place.seal import UNSEALED, has_seal, is_whole, sealed, sealed_json, sealed_text
from pipeline.store.run import files
from pipeline.store.run.files import DamagedFileError, check_seal, read_parquet, write_parquet, write_tensors
from pipeline.store.run.log import RunLog, damaged_lines, is_line_whole, read_log

TABLE = pa.table(
    {"name": pa.array(["b", "a"]).dictionary_encode(), "score": pa.array([1.5, None], pa.float32())}
)

ONE_AND_A_HALF, THREE = b"\x00\x00\xc0\x3f", b"\x00\x00\x40\x40"


def flips(content: bytes):
    """The content with each of its bits flipped, one at a time."""
    for bit in range(8 * len(content)):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        yield bytes(changed)


@pytest.mark.parametrize(
    "content",
    [
        sealed_json({"name": "ioi", "seed": 0}),
        sealed_text("name: ioi\n", "# {}"),
        sealed_text("<p>", "<!-- {} -->"),
    ],
    ids=["json", "yaml", "html"],
)
def test_every_flipped_bit_of_a_document_shows(content):
    assert is_whole(content)
    assert not any(map(is_whole, flips(content)))


def test_a_manifest_with_a_broken_seal_is_not_taken_for_one_that_never_had_any():
    assert all(map(has_seal, flips(sealed_json({"name": "ioi"}))))
    assert not has_seal(b'{"name": "ioi", "run_key": "' + b"0" * 64 + b'"}')


def test_text_that_looks_like_a_seal_is_covered_like_any_other(tmp_path):
    value = {"name": UNSEALED, "seal_of": "seal:" + "1" * 64}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    content = (tmp_path / "a.json").read_bytes()
    assert is_whole(content)
    assert not is_whole(content.replace(b"seal:1", b"seal:2"))
    with pytest.raises(ValueError, match="no room"):
        sealed(b"nothing")


@pytest.mark.parametrize("kind", ["parquet", "safetensors"])
def test_every_flipped_bit_of_a_table_or_of_tensors_shows(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    if kind == "parquet":
        write_parquet(path, TABLE, {"task": "ioi"})
    else:
        write_tensors(path, {"input": TABLE["score"].fill_null(0).to_numpy()}, {"task": "ioi"})
    content = path.read_bytes()
    check_seal(path)
    for flipped in list(flips(content))[:: 5 if kind == "safetensors" else 29]:
        path.write_bytes(flipped)
        with pytest.raises(DamagedFileError):
            check_seal(path)


def test_equal_tensors_and_facts_are_equal_bytes(tmp_path):
    arrays = {name: TABLE["score"].fill_null(0).to_numpy() for name in "dcba"}
    facts = {name: name for name in "qwertyuiop"}
    contents = set()
    for _ in range(8):
        write_tensors(tmp_path / "a.safetensors", arrays, facts)
        contents.add((tmp_path / "a.safetensors").read_bytes())
    assert len(contents) == 1
    assert files.read_tensor_footer(tmp_path / "a.safetensors")["q"] == "q"


def test_a_table_has_no_statistics_that_a_filter_would_believe(tmp_path):
    write_parquet(tmp_path / "a.parquet", TABLE, {})
    group = pq.read_metadata(tmp_path / "a.parquet").row_group(0)
    assert [group.column(i).statistics for i in range(group.num_columns)] == [None, None]
    assert pq.read_table(tmp_path / "a.parquet", filters=[("score", ">", 1)]).num_rows == 1


def of_an_earlier_version(path):
    """The table as files were written before they had seals: with statistics, and a digest over the other facts."""
    facts = {"rows": "2", "columns": files._columns(TABLE.schema), "values": files.table_digest(TABLE)}
    facts["digest"] = files.digest(facts)
    with pq.ParquetWriter(path, TABLE.schema, compression="zstd", write_page_checksum=True) as writer:
        writer.write_table(TABLE)
        writer.add_key_value_metadata({f"circuits.{key}": value for key, value in facts.items()})


def test_statistics_of_an_earlier_version_are_compared_with_the_values(tmp_path):
    path = tmp_path / "a.parquet"
    of_an_earlier_version(path)
    check_seal(path)
    assert read_parquet(path).equals(TABLE)
    content = path.read_bytes()
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    path.write_bytes(content[:footer] + content[footer:].replace(ONE_AND_A_HALF, THREE))
    assert read_parquet(path).equals(TABLE), "the values themselves are whole"
    assert pq.read_table(path, filters=[("score", "<", 2.0)]).num_rows == 0, "and a filter loses one"
    with pytest.raises(DamagedFileError, match="statistics of score"):
        check_seal(path)


def test_a_table_whose_seal_is_cut_out_is_damaged(tmp_path):
    path = tmp_path / "a.parquet"
    write_parquet(path, TABLE, {})
    path.write_bytes(path.read_bytes().replace(b"circuits.seal", b"circuitz.seal"))
    with pytest.raises(DamagedFileError):
        check_seal(path)


def test_every_flipped_bit_of_a_line_of_the_log_shows(tmp_path):
    RunLog(tmp_path).write("note", "an item has landed", item="ioi/eap/3")
    (line,) = (tmp_path / "log.jsonl").read_text().splitlines()
    assert is_line_whole(line)
    lines = [content.decode(errors="replace") for content in flips(line.encode())]
    assert [one for one in lines if is_line_whole(one)] == []
    (tmp_path / "log.jsonl").write_text(f"{line}\n{line.replace('landed', 'handed')}\n")
    assert damaged_lines(tmp_path / "log.jsonl") == [2]
    assert set(read_log(tmp_path)[0]) == {"time", "kind", "text", "item"}


def test_a_torn_line_of_the_log_and_one_without_a_checksum_are_no_damage(tmp_path):
    RunLog(tmp_path).write("note", "an item has landed")
    (line,) = (tmp_path / "log.jsonl").read_text().splitlines()
    old = {key: value for key, value in json.loads(line).items() if key != "crc"}
    assert is_line_whole(line[:-25])
    assert is_line_whole(json.dumps(old))
