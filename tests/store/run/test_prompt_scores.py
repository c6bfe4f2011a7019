"""Every prompt's scores beside an item's own: written first, looked for, read back."""

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.core.errors import CircuitsError, RunDirectoryError, ScoreError
from pipeline.core.items import Item
from pipeline.store.run import item_files, prompt_scores
from pipeline.store.run.aggregate import aggregate
from pipeline.store.run.files import DamagedFileError
from pipeline.store.run.opened import load_scores, open_run
from pipeline.store.run.run_dir import RunDirectory
from tests.store.example import GRAPH, METHODS, payload_of, plan_of

ITEM = Item("scores", "ioi", "eap", 1)
KEPT = {"eap": "float32"}


@pytest.fixture
def keeping(new_run) -> RunDirectory:
    return new_run(prompt_scores=KEPT)


def beside(run: RunDirectory, item: Item = ITEM):
    return run.path / prompt_scores.path_of(item)


def again(run: RunDirectory, **options) -> RunDirectory:
    """The same run, planned anew with another wish."""
    return RunDirectory.create(run.path, **plan_of({"ioi": 3, "gt": 1}, METHODS, **options))


# --- the file ----------------------------------------------------------------------------------------------


@given(
    arrays(np.float32, (3, 5), elements=st.floats(width=32, allow_infinity=False) | st.just(float("nan"))),
    st.sampled_from(["float32", "float16"]),
)
def test_scores_come_back_as_far_as_their_type_holds_them(tmp_path_factory, scores, kind):
    path = tmp_path_factory.mktemp("file") / "x.parquet"
    with np.errstate(over="ignore"):
        held = scores.astype(kind).astype(np.float32)
    if np.isinf(held).any():
        with pytest.raises(ScoreError, match=r"does not fit float16; set store\.dtype: float32"):
            prompt_scores.write(path, [7, 8, 9], scores, kind, {})
        assert not path.exists()
        return
    prompt_scores.write(path, [7, 8, 9], scores, kind, {})
    ids, back = prompt_scores.read(path)
    assert ids.tolist() == [7, 8, 9]
    np.testing.assert_array_equal(back, held)


def test_a_file_is_a_row_per_prompt_for_any_reader_of_parquet(keeping):
    keeping.commit(ITEM, payload_of(ITEM), {"attempt": 3})
    schema = pq.read_schema(beside(keeping))
    assert str(schema.field("scores").type) == f"fixed_size_list<element: float>[{GRAPH.n_edges}]"
    frame = pd.read_parquet(keeping.path / "prompt_scores")
    assert frame["prompt_id"].tolist() == [2, 3]
    assert (frame["task"].tolist(), frame["method"].tolist()) == (["ioi"] * 2, ["eap"] * 2)
    expected = payload_of(ITEM).per_prompt.astype(np.float32)
    np.testing.assert_array_equal(np.stack(frame["scores"]), expected)
    facts = pq.read_metadata(beside(keeping)).metadata
    assert facts[b"circuits.item_key"].decode() == keeping.item_keys[ITEM]
    assert facts[b"circuits.attempt"] == b"3"


def test_long_rows_are_read_a_few_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(prompt_scores, "_GROUP_BYTES", 100)
    scores = np.arange(60.0).reshape(6, 10)
    prompt_scores.write(tmp_path / "x.parquet", range(6), scores, "float32", {})
    assert pq.read_metadata(tmp_path / "x.parquet").num_row_groups == 3  # two rows of 40 bytes each
    np.testing.assert_array_equal(prompt_scores.read(tmp_path / "x.parquet")[1], scores)


def test_a_flipped_bit_is_found(keeping):
    keeping.commit(ITEM, payload_of(ITEM))
    path = beside(keeping)
    whole = path.read_bytes()
    before = prompt_scores.read(path)[1]
    found = 0
    for position in range(0, len(whole), 5):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << (position % 8)
        path.write_bytes(damaged)
        try:
            np.testing.assert_array_equal(prompt_scores.read(path)[1], before)
        except DamagedFileError:
            found += 1
    assert found > len(whole) / 5 / 2


# --- when an item is done ----------------------------------------------------------------------------------


def test_an_item_is_done_only_with_its_prompts_scores(keeping):
    keeping.commit(ITEM, payload_of(ITEM))
    acdc = Item("scores", "ioi", "acdc", 1)
    keeping.commit(acdc, payload_of(acdc))
    assert not beside(keeping, acdc).exists(), "nobody asked for these"
    assert keeping.done() == keeping.done(deep=True) == {ITEM, acdc}
    beside(keeping).unlink()
    assert keeping.done() == {acdc}
    assert (keeping.path / ITEM.path).exists(), "what is good is not touched"
    keeping.commit(ITEM, payload_of(ITEM))
    assert keeping.done() == {ITEM, acdc}


def test_a_score_file_is_written_after_its_prompts_scores(keeping, monkeypatch):
    """Whatever fails between the two, a score file is never there alone."""

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(item_files, "write_parquet", fail)
    with pytest.raises(OSError, match="No space"):
        keeping.commit(ITEM, payload_of(ITEM))
    assert beside(keeping).exists()
    assert not (keeping.path / ITEM.path).exists()
    assert keeping.done() == set()


def test_asking_later_makes_items_missing_and_asking_no_more_makes_them_done(run):
    run.commit(ITEM, payload_of(ITEM))
    keys = run.item_keys
    asked = again(run, prompt_scores=KEPT)
    assert asked.item_keys == keys, "scores are the same, with and without"
    assert asked.done() == set()
    assert run.done(kept=KEPT, rename=False) == set(), "planning sees it before anything is written"
    assert again(run).done() == {ITEM}
    asked = again(run, prompt_scores=KEPT)
    asked.commit(ITEM, payload_of(ITEM))
    assert asked.done() == {ITEM}
    assert again(run).done() == {ITEM}
    assert again(run, prompt_scores=KEPT).done() == {ITEM}, "the file has stayed"


@pytest.mark.parametrize(
    ("there", "asked", "enough"),
    [
        ("float32", "float32", True),
        ("float32", "float16", True),
        ("float16", "float16", True),
        ("float16", "float32", False),
    ],
)
def test_finer_numbers_serve_and_coarser_do_not(new_run, there, asked, enough):
    run = new_run(prompt_scores={"eap": there})
    run.commit(ITEM, payload_of(ITEM))
    assert again(run, prompt_scores={"eap": asked}).done() == ({ITEM} if enough else set())


def test_a_file_of_another_item_or_with_other_edges_is_not_done(keeping):
    other = Item("scores", "ioi", "eap", 2)
    for item in (ITEM, other):
        keeping.commit(item, payload_of(item))
    whole = beside(keeping).read_bytes()
    beside(keeping).write_bytes(beside(keeping, other).read_bytes())
    assert keeping.done([ITEM], rename=False) == set()
    beside(keeping).write_bytes(whole)
    assert keeping.done([ITEM]) == {ITEM}
    prompt_scores.write(beside(keeping), [2, 3], np.ones((2, 4)), "float32", keeping.facts(ITEM))
    assert keeping.done([ITEM], rename=False) == set()


def test_damage_is_found_when_shards_are_merged_and_the_item_is_missing_again(keeping):
    for item in keeping.items:
        keeping.commit(item, payload_of(item))
    path = beside(keeping)
    content = bytearray(path.read_bytes())
    column = pq.read_metadata(path).row_group(0).column(1)
    content[column.data_page_offset + column.total_compressed_size - 3] ^= 0x10
    path.write_bytes(content)
    assert keeping.done([ITEM]) == {ITEM}  # the footer alone does not show it
    assert aggregate(keeping) == [ITEM]
    assert ITEM not in keeping.done()
    keeping.commit(ITEM, payload_of(ITEM))
    assert aggregate(keeping) == []


def test_scores_without_prompts_where_these_are_wanted_are_refused(keeping):
    scores = payload_of(ITEM)
    with pytest.raises(TypeError, match="ioi/eap/1"):
        keeping.commit(ITEM, type(scores).from_moments(GRAPH, scores.moments))
    assert keeping.done() == set()


# --- reading -----------------------------------------------------------------------------------------------


def test_they_are_read_as_a_frame_of_prompts_by_edges(keeping):
    for item in keeping.items:
        keeping.commit(item, payload_of(item))
    frame = open_run(keeping.path).prompt_scores("eap", "ioi")
    assert frame.index.tolist() == list(range(6))
    assert frame.index.name == "prompt_id"
    assert tuple(frame.columns) == GRAPH.edge_names
    rows = [payload_of(Item("scores", "ioi", "eap", shard)).per_prompt for shard in range(3)]
    np.testing.assert_array_equal(frame.to_numpy(), np.concatenate(rows).astype(np.float32))
    pd.testing.assert_frame_equal(load_scores(keeping.path, "prompt", task="ioi", method="eap"), frame)
    status = open_run(keeping.path).status()["prompt_scores"]
    assert (status["methods"], status["files"]) == (["eap"], 4)
    assert status["bytes"] == sum(p.stat().st_size for p in keeping.path.glob("prompt_scores/**/*.parquet"))


def test_what_is_not_there_is_said_with_what_to_type(keeping):
    run = open_run(keeping.path)
    with pytest.raises(RunDirectoryError, match=r"resume .* --set store.prompt_scores=true"):
        run.prompt_scores("eap", "ioi")
    with pytest.raises(CircuitsError, match="acdc has no scores of single prompts"):
        run.prompt_scores("acdc", "ioi")
    with pytest.raises(CircuitsError, match="scores nodes"):
        run.prompt_scores("patch", "ioi")
    with pytest.raises(CircuitsError, match="name a task"):
        run.prompt_scores("eap")
    keeping.commit(ITEM, payload_of(ITEM))
    assert run.prompt_scores("eap", "ioi").index.tolist() == [2, 3], "those that are there"
    path = beside(keeping)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(RunDirectoryError, match="damaged"):
        run.prompt_scores("eap", "ioi")
