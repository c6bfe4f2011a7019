"""Reading a run, without torch, ray or prefect."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from pipeline.core.errors import CircuitsError, RunDirectoryError
from pipeline.core.items import Item
from pipeline.core.results import EDGE_SCORES
from pipeline.store.run.aggregate import aggregate, merged_path
from pipeline.store.run.export import export
from pipeline.store.run.opened import edge_scores, load_scores, open_run
from tests.store.example import GRAPH, payload_of


@pytest.fixture
def finished(complete):
    aggregate(complete)
    complete.mark_complete()
    return open_run(complete.path)


def test_merged_scores_are_a_frame_with_a_row_per_task_method_and_edge(finished):
    frame = load_scores(finished.path)
    assert frame.columns.tolist() == [
        "task", "method", "edge_id", "sender", "receiver", "span", "score", "score_std", "score_sem", "ci_low",
        "ci_high", "n_prompts", "n_shards", "rank", "sign_agreement", "kept_fraction", "kept",
        "boot_low", "boot_high",
    ]  # fmt: skip
    assert len(frame) == 2 * 2 * GRAPH.n_edges  # two tasks, two methods that score edges
    assert set(zip(frame["task"], frame["method"], strict=True)) == {
        ("ioi", "eap"), ("ioi", "acdc"), ("gt", "eap"), ("gt", "acdc")
    }  # fmt: skip
    assert isinstance(frame["sender"].dtype, pd.CategoricalDtype)
    one = load_scores(finished.path, task="ioi", method="eap")
    names = one["sender"].astype(str) + "->" + one["receiver"].astype(str)
    assert tuple(names) == GRAPH.edge_names


def test_shards_are_read_as_they_are(finished):
    frame = load_scores(finished.path, level="shard", task="ioi", method="acdc")
    assert len(frame) == 3 * GRAPH.n_edges
    assert set(frame["shard"]) == {0, 1, 2}
    assert {"task", "method", "kept"} <= set(frame.columns)
    second = frame[frame["shard"] == 1]
    expected = payload_of(Item("scores", "ioi", "acdc", 1))
    np.testing.assert_array_equal(second["score"], expected.score.astype(np.float32))
    np.testing.assert_array_equal(second["kept"].to_numpy(bool), expected.kept)


def test_node_scores_are_read_by_name(finished):
    frame = finished.scores(method="patch", task="gt")
    assert frame.columns.tolist()[:5] == ["task", "method", "node_id", "node", "span"]
    assert len(finished.scores(method="patch", level="shard")) == 9 * 4
    with pytest.raises(CircuitsError, match="scores nodes"):
        finished.circuit("patch", "gt", top=3)


def test_edge_scores_are_those_of_the_merged_file(finished):
    scores = edge_scores(finished, "gt", "acdc")
    part = payload_of(Item("scores", "gt", "acdc", 0))
    np.testing.assert_allclose(scores.score, part.score, rtol=1e-6)
    np.testing.assert_allclose(scores.std, part.std, rtol=1e-5)
    np.testing.assert_array_equal(scores.n_prompts, part.n_prompts)
    np.testing.assert_array_equal(scores.kept, part.kept)
    assert edge_scores(finished, "gt", "eap").kept is None


def test_circuits_by_rank_threshold_and_decision(finished):
    assert len(finished.circuit("eap", "ioi", top=4)) == 4
    frame = finished.scores(method="eap", task="ioi")
    best = frame.nsmallest(4, "rank")
    assert set(finished.circuit("eap", "ioi", top=4).edge_names) == set(
        best["sender"].astype(str) + "->" + best["receiver"].astype(str)
    )
    assert len(finished.circuit("eap", "ioi", threshold=0.5)) == (frame["score"].abs() >= 0.5).sum()
    kept = finished.scores(method="acdc", task="gt")["kept"]
    assert len(finished.circuit("acdc", "gt")) == kept.sum()
    with pytest.raises(CircuitsError, match="top="):
        finished.circuit("eap", "ioi")


def test_unknown_and_ambiguous_names_say_what_there_is(finished):
    with pytest.raises(CircuitsError, match="did you mean 'acdc'"):
        finished.scores(method="acd")
    with pytest.raises(CircuitsError, match="no task 'io'"):
        finished.scores(task="io")
    with pytest.raises(CircuitsError, match="name a task, as --task ioi or task='ioi'"):
        finished.circuit("eap", top=2)
    with pytest.raises(CircuitsError, match="name a method, as --method eap or method='eap'"):
        finished.circuit(task="ioi", top=2)
    with pytest.raises(CircuitsError, match="level"):
        finished.scores(level="prompts")


def test_a_run_that_scores_no_edges_says_what_it_has(finished, monkeypatch):
    monkeypatch.setattr(type(finished), "methods", ("patch",))
    for read in (
        finished.scores,
        finished.edge_scores,
        finished.prompt_scores,
        lambda: finished.circuit(top=2),
    ):
        with pytest.raises(
            CircuitsError, match=r"scores edges: it has patch \(nodes\); read one with scores"
        ):
            read()


def test_what_a_complete_run_was_not_asked_for_is_not_called_missing(finished):
    with pytest.raises(
        RunDirectoryError, match=r"is complete and has no evaluations.parquet: its config asks for"
    ):
        finished.evaluations()


def test_an_unfinished_run_says_how_far_it_is(run):
    item = Item("scores", "ioi", "eap", 0)
    run.commit(item, payload_of(item))
    with pytest.raises(RunDirectoryError, match="1 of 18 items"):
        load_scores(run.path)
    assert len(load_scores(run.path, level="shard")) == GRAPH.n_edges
    with pytest.raises(RunDirectoryError, match="faithfulness"):
        open_run(run.path).faithfulness()


def test_damage_is_said_in_one_line(finished):
    path = finished.path / merged_path(EDGE_SCORES, "ioi", "eap")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(RunDirectoryError, match="damaged") as caught:
        finished.scores(method="eap", task="ioi")
    assert "\n" not in str(caught.value)


def test_status_counts_files_and_names_what_is_missing(run):
    done = [Item("baseline", "ioi", None, 0), Item("scores", "ioi", "eap", 0)]
    for item in done:
        run.commit(item, payload_of(item))
    run.record_failure(Item("scores", "ioi", "eap", 2), 1, {"error": "x"})
    torn = run.commit(Item("scores", "ioi", "eap", 1), payload_of(Item("scores", "ioi", "eap", 1)))
    torn.write_bytes(b"PAR1")
    status = open_run(run.path).status()
    assert (status["items"], status["done"], status["missing"], status["failed"]) == (18, 2, 16, 1)
    assert not status["complete"]
    assert torn.exists()  # looking changes nothing
    row = next(row for row in status["rows"] if (row["task"], row["method"]) == ("ioi", "eap"))
    assert row == {
        "task": "ioi", "method": "eap", "items": 3, "done": 1, "failed": 1, "missing": ["ioi/eap/1", "ioi/eap/2"],
    }  # fmt: skip
    json.dumps(status)


def test_status_says_who_is_at_work(run, finished):
    assert finished.status()["complete"]
    assert finished.status()["running"] is None
    with run.lock() as hold:
        assert str(hold.owner.pid) in open_run(run.path).status()["running"]


def test_baseline_and_footers(finished):
    frame = finished.baseline("ioi")
    assert frame["prompt_id"].tolist() == list(range(6))
    assert set(frame["metric"]) == {"logit_diff"}
    footers = finished.footers()
    assert len(footers) == 18
    assert footers["seconds"].sum() == 9.0
    assert footers["item_key"].map(len).eq(64).all()
    patched = footers[footers["method"] == "patch"]
    assert len(patched) == 4
    assert json.loads(patched["parameters"].iloc[0])["name"] == "patch"


@pytest.mark.slow
def test_reading_loads_neither_torch_nor_an_orchestrator(finished):
    code = (
        "import sys\n"
        "from pipeline.store.run.opened import load_scores, open_run\n"
        "from pipeline.store.run.export import export\n"
        f"run = open_run({str(finished.path)!r})\n"
        "run.status(); run.failures(); run.circuit('eap', 'ioi', top=3)\n"
        f"frame = load_scores({str(finished.path)!r})\n"
        "print(len(frame), sorted({'torch', 'ray', 'prefect', 'transformers', 'typer'} & set(sys.modules)))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == f"{4 * GRAPH.n_edges} []"


# --- export ------------------------------------------------------------------------------------------------


def test_mib_files_hold_every_edge_with_the_chosen_circuit(finished, tmp_path):
    done = export(finished, "mib", tmp_path / "out", task="ioi", top=5)
    assert [str(p.relative_to(tmp_path / "out")) for p in done.paths] == [
        "eap/ioi_tiny/importances.json",
        "acdc/ioi_tiny/importances.json",
    ]
    content = json.loads(done.paths[0].read_text())
    assert content.keys() == {"cfg", "nodes", "edges"}
    assert sum(edge["in_graph"] for edge in content["edges"].values()) == 5
    frame = finished.scores(method="eap", task="ioi")
    names = frame["sender"].astype(str) + "->" + frame["receiver"].astype(str)
    for name, score in zip(names, frame["score"], strict=True):
        assert content["edges"][name]["score"] == score
    assert any("input" in note for note in done.notes)  # the example's ablation is mean


def test_mib_files_of_a_deciding_method_hold_its_kept_set(finished, tmp_path):
    path = export(finished, "mib", tmp_path, task="gt", method="acdc").paths[0]
    edges = json.loads(path.read_text())["edges"]
    assert {name for name, edge in edges.items() if edge["in_graph"]} == set(
        finished.circuit("acdc", "gt").edge_names
    )


def test_csv_holds_the_frame(finished, tmp_path):
    done = export(finished, "csv", tmp_path, task="gt")
    assert [path.name for path in done.paths] == ["eap.csv", "acdc.csv", "patch.csv"]
    frame = pd.read_csv(done.paths[0])
    assert frame["score"].tolist() == finished.scores(method="eap", task="gt")["score"].tolist()


def test_an_unknown_format_and_nodes_in_mib_are_refused(finished, tmp_path):
    with pytest.raises(CircuitsError, match="did you mean 'mib'"):
        export(finished, "mbi", tmp_path)
    with pytest.raises(CircuitsError, match="scores nodes"):
        export(finished, "mib", tmp_path, method="patch")


@pytest.mark.parametrize("rank", [5, ["absolute", "sined"], [], {"a": 1}])
def test_a_run_that_names_no_rules_is_one_line(finished, rank):
    finished.__dict__["config"] = {"evaluate": {"rank": rank}}
    with pytest.raises(RunDirectoryError, match=r"run.yaml: evaluate.rank names no rules"):
        _ = finished.ranks
