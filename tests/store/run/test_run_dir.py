"""Creating, committing, finding damage, failures."""

import json

import numpy as np
import pytest

from pipeline.core.errors import RunDirectoryError
from pipeline.core.items import Item
from pipeline.store.run.files import DamagedFileError, read_footer, read_parquet
from pipeline.store.run.run_dir import RunDirectory
from tests.store.example import GRAPH, METHODS, flip_a_bit, payload_of, plan_of, token_pair

SCORES = Item("scores", "ioi", "eap", 1)
NODES = Item("node_scores", "ioi", "patch", 0)
BASELINE = Item("baseline", "gt", None, 0)
MEANS = Item("statistics", "ioi", None, 0)


def test_planning_writes_everything_that_readers_need(run):
    written = sorted(path.name for path in run.path.iterdir())
    assert written == [
        "graph.parquet",
        "manifest.json",
        "nodes.parquet",
        "plan.json",
        "prompts.parquet",
        "run.yaml",
    ]
    again = RunDirectory.open(run.path)
    assert again.graph == GRAPH
    assert again.items == run.items
    assert len(again.items) == 2 + 4 * (1 + len(METHODS))
    assert again.prompts("ioi", 1) == [token_pair(2), token_pair(3)]
    assert again.prompts("ioi") == [token_pair(i) for i in range(6)]


def test_the_graph_tables_list_every_edge_and_node(run):
    edges = read_parquet(run.path / "graph.parquet").to_pandas()
    assert edges["edge_id"].tolist() == list(range(GRAPH.n_edges))
    names = edges["sender"].astype(str) + "->" + edges["receiver"].astype(str)
    assert tuple(names) == GRAPH.edge_names
    row = edges[names == "a0.h1->a1.h0<k>"].iloc[0]
    assert (row.sender_kind, row.sender_layer, row.sender_head) == ("head", 0, 1)
    assert (row.receiver_kind, row.receiver_layer, row.receiver_head, row.receiver_input) == (
        "head",
        1,
        0,
        "k",
    )
    nodes = read_parquet(run.path / "nodes.parquet").to_pandas()
    assert nodes["node"].tolist() == [node.name for node in GRAPH.nodes]


@pytest.mark.parametrize("item", [SCORES, NODES, BASELINE, MEANS], ids=lambda item: item.name)
def test_a_committed_item_is_done_and_the_others_are_not(run, item):
    path = run.commit(item, payload_of(item), {"attempt": 2, "device": "cpu"})
    assert path == run.path / item.path
    assert run.done() == run.done(deep=True) == {item}
    footer = run.check(item)
    assert footer["item_key"] == run.item_keys[item]
    assert (footer["attempt"], footer["device"], footer["task"]) == ("2", "cpu", item.task)
    assert [p for p in path.parent.iterdir() if p.name.startswith(".")] == []


def test_the_columns_of_scores(run):
    table = read_parquet(run.commit(SCORES, payload_of(SCORES)))
    kinds = {field.name: str(field.type) for field in table.schema}
    name = "dictionary<values=string, indices=int32, ordered=0>"
    assert kinds == {
        "edge_id": "int32", "sender": name, "receiver": name, "span": name, "score": "float", "score_std": "float",
        "n_prompts": "int32", "kept": "bool", "shard": "int32",
    }  # fmt: skip
    assert table["span"].null_count == table["kept"].null_count == GRAPH.n_edges
    assert set(table["shard"].to_pylist()) == {1}
    np.testing.assert_array_equal(table["score"].to_numpy(), payload_of(SCORES).score.astype(np.float32))


def test_what_was_not_measured_is_null(run):
    item = Item("scores", "ioi", "acdc", 0)
    table = read_parquet(run.commit(item, payload_of(item)))
    assert table["score"].null_count == table["score_std"].null_count == 4
    assert table["kept"].null_count == 0


def test_the_footer_of_a_method_says_what_ran(run):
    run.commit(SCORES, payload_of(SCORES))
    footer = read_footer(run.path / SCORES.path)
    assert json.loads(footer["method"])["name"] == "eap"
    assert (footer["metric"], footer["ablation"]) == ("logit_diff", "mean")
    assert (footer["model"], footer["revision"], footer["dtype"]) == ("sha256:f", "local", "float32")
    assert footer["run_key"] == run.manifest["run_key"]
    assert footer["graph_fingerprint"] == GRAPH.fingerprint


def test_node_rows_are_sorted_by_node_and_position(run):
    table = read_parquet(run.commit(NODES, payload_of(NODES)))
    rows = list(zip(table["node_id"].to_pylist(), table["span"].to_pylist(), strict=True))
    assert rows == [(node, span) for node in (0, 1, 3) for span in (None, "0", "10")]
    assert table["node"].to_pylist()[:4] == ["input", "input", "input", "a0.h0"]


def test_statistics_come_back_as_they_were(run):
    assert run.statistics("ioi") is None
    run.commit(MEANS, payload_of(MEANS))
    means = run.statistics("ioi")
    assert means.keys() == {"input", "count"}
    np.testing.assert_array_equal(means["input"], payload_of(MEANS)["input"])
    assert means["count"].dtype == np.int64


def test_the_wrong_kind_of_payload_is_refused(run):
    with pytest.raises(TypeError):
        run.commit(SCORES, payload_of(NODES))
    with pytest.raises(TypeError):
        run.commit(MEANS, payload_of(SCORES))
    assert run.done() == set()


def test_an_item_outside_of_the_plan_is_refused(run):
    stranger = Item("scores", "ioi", "eap", 99)
    with pytest.raises(RunDirectoryError, match="not in its plan"):
        run.commit(stranger, payload_of(stranger))


# --- damage ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("item", [SCORES, BASELINE, MEANS], ids=lambda item: item.name)
@pytest.mark.parametrize("keep", [0, 1, 100, -30, -1])
def test_a_torn_file_is_set_aside_by_its_footer(run, item, keep):
    path = run.commit(item, payload_of(item))
    path.write_bytes(path.read_bytes()[:keep])
    assert run.done(rename=False) == set()
    assert path.exists()
    assert run.done([item]) == set()
    assert not path.exists()
    assert [p.name for p in path.parent.iterdir() if p.name.startswith("_bad-")]
    run.commit(item, payload_of(item))
    assert run.done([item], deep=True) == {item}


def test_a_file_of_another_run_under_the_right_name_is_not_done(run, new_run):
    other = new_run("other", salt="x")
    for item in (SCORES, MEANS):
        source = other.commit(item, payload_of(item))
        target = run.path / item.path
        target.parent.mkdir(parents=True)
        target.write_bytes(source.read_bytes())
        with pytest.raises(DamagedFileError, match="another key"):
            run.check(item)
    assert run.done() == set()


@pytest.mark.parametrize("step", [7, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("item", [BASELINE, MEANS], ids=["parquet", "safetensors"])
def test_a_flipped_bit_is_found_or_changes_nothing_that_is_read(run, item, step):
    """Every seventh (slow: every) byte of a small file, one flipped bit each: either the deep check refuses
    the file, or values and facts come back as they were written."""
    path = run.commit(item, payload_of(item))
    whole = path.read_bytes()
    facts = run.check(item, deep=True)
    values = _values(run, item)
    undetected = 0
    for position in range(0, len(whole), step):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << (position % 8)
        path.write_bytes(damaged)
        if run.done([item], deep=True, rename=False):
            undetected += 1
            assert run.check(item) == facts, position
            assert _values(run, item) == values, position
    assert undetected < len(whole) / step / 2  # what passes is padding, page statistics and the like
    path.write_bytes(whole)
    assert run.done([item], deep=True) == {item}


def _values(run, item):
    if item.kind == "statistics":
        return {name: array.tobytes() for name, array in run.statistics(item.task).items()}
    table = read_parquet(run.path / item.path)
    return repr(table.to_pylist())


def test_a_bit_flipped_in_a_page_passes_the_footer_and_fails_the_deep_check(run):
    path = run.commit(SCORES, payload_of(SCORES))
    flip_a_bit(path)
    assert run.done([SCORES]) == {SCORES}
    assert run.done([SCORES], deep=True) == set()
    assert not path.exists()


def test_damaged_statistics_are_set_aside_with_one_line(run):
    flip_a_bit(run.commit(MEANS, payload_of(MEANS)))
    with pytest.raises(RunDirectoryError, match="damaged"):
        run.statistics("ioi")
    assert run.statistics("ioi") is None


def test_temporaries_and_files_set_aside_are_no_items(run):
    path = run.commit(SCORES, payload_of(SCORES))
    path.rename(path.with_name(f".{path.name}.tmp-1"))
    assert run.done() == set()


# --- which run it is ---------------------------------------------------------------------------------------


def test_the_same_run_is_taken_and_keeps_its_items(run):
    run.commit(SCORES, payload_of(SCORES))
    again = RunDirectory.create(run.path, **plan_of({"ioi": 3, "gt": 1}, METHODS))
    assert again.done() == {SCORES}


@pytest.mark.parametrize("name", ["graph.parquet", "prompts.parquet"])
def test_what_planning_wrote_is_written_again_only_when_damaged(run, name):
    path, whole = run.path / name, (run.path / name).read_bytes()
    before = path.stat().st_mtime_ns
    RunDirectory.create(run.path, **plan_of({"ioi": 3, "gt": 1}, METHODS))
    assert path.stat().st_mtime_ns == before
    damaged = bytearray(whole)
    damaged[40] ^= 1
    path.write_bytes(damaged)
    RunDirectory.create(run.path, **plan_of({"ioi": 3, "gt": 1}, METHODS))
    assert path.read_bytes() == whole


def test_another_run_is_refused_with_what_differs(run):
    arguments = plan_of({"ioi": 3, "gt": 1}, METHODS)
    arguments["manifest"]["identity"]["methods"]["eap"]["steps"] = 7
    arguments["manifest"]["run_key"] = "another"
    with pytest.raises(RunDirectoryError) as caught:
        RunDirectory.create(run.path, **arguments)
    assert "methods.eap.steps" in str(caught.value)
    assert "--run-dir" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "steps" not in RunDirectory.open(run.path).manifest["identity"]["methods"]["eap"]


def test_edited_prompts_and_models_are_named(run):
    for key, words in (("tasks", "tasks.ioi has other contents"), ("model", "model has other contents")):
        arguments = plan_of({"ioi": 3, "gt": 1}, METHODS)
        entry = arguments["manifest"]["identity"][key]
        (entry["ioi"] if key == "tasks" else entry)["sha256" if key == "tasks" else "fingerprint"] = "edited"
        arguments["manifest"]["run_key"] = "another"
        with pytest.raises(RunDirectoryError, match=words):
            RunDirectory.create(run.path, **arguments)


def test_a_run_is_extended_by_tasks_and_methods_and_keeps_its_items(new_run):
    small = new_run(tasks={"ioi": 2}, methods={"eap": "edge"})
    item = Item("scores", "ioi", "eap", 1)
    small.commit(item, payload_of(item))
    larger = plan_of({"ioi": 2, "gt": 1}, {"eap": "edge", "acdc": "edge"})
    with pytest.raises(RunDirectoryError, match=r"it has no methods\.acdc"):
        RunDirectory.create(small.path, **larger)
    extended = RunDirectory.create(small.path, **larger, extend=True)
    assert extended.done() == {item}
    assert len(extended.items) > len(small.items)
    # and the smaller config still finds its run, with the larger plan left as it is
    again = RunDirectory.create(small.path, **plan_of({"ioi": 2}, {"eap": "edge"}))
    assert again.items == extended.items


def test_another_model_is_no_extension(run):
    arguments = plan_of({"ioi": 3, "gt": 1}, METHODS, salt="other")
    with pytest.raises(RunDirectoryError, match="model has other contents"):
        RunDirectory.create(run.path, **arguments, extend=True)


def test_a_folder_of_other_things_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(RunDirectoryError, match=r"thesis\.tex"):
        RunDirectory.create(tmp_path, **plan_of({"ioi": 1}, METHODS))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_planning_that_was_interrupted_is_done_again(run):
    (run.path / "manifest.json").unlink()
    with pytest.raises(RunDirectoryError, match=r"manifest\.json: torn or gone"):
        RunDirectory.open(run.path)
    RunDirectory.create(run.path, **plan_of({"ioi": 3, "gt": 1}, METHODS))
    assert RunDirectory.open(run.path).items == run.items


def test_no_run_and_a_run_of_another_version_are_one_line(run, tmp_path):
    with pytest.raises(RunDirectoryError, match="no such run directory"):
        RunDirectory.open(tmp_path / "nothing")
    manifest = {**run.manifest, "schema_version": 99}
    (run.path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(RunDirectoryError, match="schema version 99"):
        RunDirectory.open(run.path)
    for text, words in (("{}", "schema version None"), ("[]", "torn or gone"), ("{", "torn or gone")):
        (run.path / "manifest.json").write_text(text)
        with pytest.raises(RunDirectoryError, match=words):
            RunDirectory.open(run.path)


# --- failures ----------------------------------------------------------------------------------------------


def test_failures_are_recorded_listed_and_cleared(run):
    run.record_failure(SCORES, 2, {"error": "worker died", "host": "a"})
    run.record_failure(SCORES, 1, {"error": "worker died", "host": "b"})
    run.record_failure(BASELINE, 1, {"error": "NaN", "peak": np.float32(1.0)})
    found = run.failures()
    assert [(f["name"], f["attempt"]) for f in found] == [
        ("gt/baseline/0", 1),
        ("ioi/eap/1", 1),
        ("ioi/eap/1", 2),
    ]
    assert Item.from_dict(found[1]) == SCORES
    run.clear_failures([SCORES])
    assert [f["name"] for f in run.failures()] == ["gt/baseline/0"]
    run.clear_failures()
    assert run.failures() == []


def test_a_torn_failure_record_does_not_hide_the_others(run):
    path = run.record_failure(SCORES, 1, {"error": "x"})
    path.write_text("{")
    run.record_failure(BASELINE, 1, {"error": "y"})
    assert len(run.failures()) == 2


def test_the_lock_of_a_run_refuses_a_second_owner(run):
    with run.lock(), pytest.raises(RunDirectoryError, match="in use"), run.lock():
        pass
