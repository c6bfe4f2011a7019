"""A circuit that somebody else found is judged and compared like ours."""

import json

import numpy as np
import pytest
import torch

from pipeline import discover, make_plan, open_run
from pipeline.core.errors import CircuitsError, ConfigError
from pipeline.core.exported import auto_circuit_json
from pipeline.core.foreign import read_circuit
from pipeline.report.compared import compared
from pipeline.schedule.preparing import resume
from pipeline.store.run.export import export
from tests.runs import toy_config

TASKS = [{"name": "induction", "count": 6, "held_out": 4}]
LOOK = {"edge_fractions": [0.05, 0.5], "also": ["sufficiency"]}


def config(folder, *methods):
    return toy_config(folder, tasks=TASKS, shards={"prompts": 3}, methods=list(methods), evaluate=LOOK)


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ours")
    acdc = {"name": "acdc", "threshold": 0.1, "metric": "logit_diff", "as": "acdc"}
    run = discover(config(folder, "eap", acdc), local=True, quiet=True)
    return run, export(run, "mib", folder / "out").paths


@pytest.fixture(scope="module")
def theirs(ours, tmp_path_factory):
    _, (eap, acdc) = ours
    methods = ({"name": "file", "path": str(eap)}, {"name": "file", "path": str(acdc), "circuit": True})
    return discover(config(tmp_path_factory.mktemp("theirs"), *methods), local=True, quiet=True)


def test_scores_come_back_with_their_bits_and_without_a_spread(ours, theirs):
    run, _ = ours
    mine, back = (
        run.edge_scores("eap", "induction"),
        theirs.edge_scores("file-induction_toy-planted", "induction"),
    )
    np.testing.assert_array_equal(back.score, mine.score.astype(np.float32))
    assert np.isnan(back.std).all()
    frame = theirs.scores(method="file-induction_toy-planted")
    assert frame[["score_std", "ci_low", "ci_high"]].isna().all(axis=None)
    assert theirs.footers().query("method == 'file-induction_toy-planted'")["forward_passes"].eq(0).all()


def test_it_is_as_faithful_as_where_it_came_from(ours, theirs):
    names = {"eap": "file-induction_toy-planted", "acdc": "file-induction_toy-planted-circuit"}
    mine, back = ours[0].faithfulness(), theirs.faithfulness()
    for method, name in names.items():
        one, other = mine[mine["method"] == method], back[back["method"] == name]
        for column in ("task", "n_edges", "metric_full", "metric_circuit", "faithfulness"):
            assert one[column].tolist() == other[column].tolist(), column
    found = theirs.evaluations()
    assert set(found["method"]) == {*names.values()}
    assert found["value"].tolist() == ours[0].evaluations()["value"].tolist()


def test_it_is_compared_with_ours(ours, theirs):
    (row,) = compared(ours[0], theirs, method=None, task="induction")[:1]
    assert (row["method"], row["other_method"]) == ("eap", "file-induction_toy-planted")
    assert row["spearman"] == pytest.approx(1)


def test_a_run_is_of_the_bytes_and_not_of_where_they_lie(ours, tmp_path):
    _, (path, _) = ours
    moved, other = tmp_path / "moved.json", tmp_path / "other.json"
    moved.write_bytes(path.read_bytes())
    other.write_bytes(path.read_bytes() + b" ")
    keys = [
        make_plan(config(tmp_path, {"name": "file", "path": str(one), "as": "x"})).run_key
        for one in (path, moved, other)
    ]
    assert keys[0] == keys[1] != keys[2]


def test_a_run_goes_on_without_the_file_and_not_with_another(ours, tmp_path):
    _, (path, _) = ours
    mine = tmp_path / "mine.json"
    mine.write_bytes(path.read_bytes())
    asked = config(tmp_path, {"name": "file", "path": str(mine)})
    run = discover(asked, local=True, quiet=True)
    assert str(tmp_path) not in (run.path / "manifest.json").read_text()
    mine.unlink()
    resume(run.path).close()
    assert open_run(run.path).edge_scores("file-mine", "induction").graph == run.graph
    mine.write_text(json.dumps({"edges": {"input->logits": {"score": 1.0}}}))
    with pytest.raises(ConfigError, match=r"mine.json: is not what it was"):
        resume(run.path)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("none.json", None, "no such file"),
        ("graph.txt", "x", r"a circuit is read from .json, .csv, .pt, .pth or .pkl"),
        ("graph.pt", "x", "graph.pt: is no archive of torch.save; a pickle is never loaded"),
        (
            "edges.csv",
            "edge,score\nm0->logits,1\nm9->logits,1\n",
            "edges.csv: line 3: 'm9->logits' is not in this",
        ),
        (
            "twice.csv",
            "edge,score\nm0->logits,1\nMLP 0->Resid End,1\n",
            "line 3: 'MLP 0->Resid End' is there twice",
        ),
        ("nan.csv", "edge,score\nm0->logits,nan\n", "has no scores, only a set of edges"),
        ("big.json", '{"cfg": {"n_layers": 12}, "edges": {}}', "is of a model with n_layers 12"),
        (
            "set.csv",
            "edge\ninput->logits\n",
            "has no scores, only a set of edges; take it with circuit: true",
        ),
    ],
)
def test_what_cannot_be_judged_is_refused_before_anything_is_written(tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(CircuitsError, match=message):
        make_plan(config(tmp_path, {"name": "file", "path": str(tmp_path / name)}))


@pytest.mark.parametrize(("words", "ending"), [("acdc", ".acdc"), ("auto_circuit", ".auto_circuit")])
def test_what_is_written_in_others_words_is_what_was_found(ours, tmp_path, words, ending):
    run, _ = ours
    for path in export(run, words, tmp_path).paths:
        mine = run.edge_scores(path.name.partition(".")[0], "induction")
        assert path.name.endswith(f"{ending}.json")
        back = read_circuit(path.read_text(), str(path), run.graph)
        np.testing.assert_array_equal(back.score, np.nan_to_num(mine.score))
        none = np.zeros(run.graph.n_edges, dtype=bool)
        expected = mine.kept if mine.kept is not None else none
        np.testing.assert_array_equal(none if back.mask is None else back.mask, expected)


def test_a_file_that_torch_saved_is_judged_as_its_json_is(ours, theirs, tmp_path):
    run, _ = ours
    mine = run.edge_scores("eap", "induction")
    said = auto_circuit_json(run.graph, None, mine.score)["prune_scores"]
    path = tmp_path / "induction_toy-planted.pkl"
    torch.save({module: torch.tensor(rows, dtype=torch.float64) for module, rows in said.items()}, path)
    back = discover(config(tmp_path, {"name": "file", "path": str(path)}), local=True, quiet=True)
    names = ["n_edges", "metric_circuit", "faithfulness"]
    expected = theirs.faithfulness().query("method == 'file-induction_toy-planted'")[names]
    assert back.faithfulness()[names].to_numpy().tolist() == expected.to_numpy().tolist()


def test_a_file_without_a_circuit_has_none_to_judge(tmp_path):
    (tmp_path / "a.json").write_text('{"edges": {"input->logits": {"score": 1, "in_graph": false}}}')
    with pytest.raises(ConfigError, match="marks no edge as in the circuit"):
        make_plan(config(tmp_path, {"name": "file", "path": str(tmp_path / "a.json"), "circuit": True}))
