"""Circuits of one run on the prompts of another: what they do there, beside what was found there."""

import json

import pytest

from flows.cli import main
from pipeline import discover, evaluate, load_model
from pipeline.core.errors import CircuitsError
from pipeline.core.graph import Graph
from pipeline.schedule.transfer import transfer_config
from pipeline.store.run.opened import Run
from tests.runs import toy_config

METHODS = ["eap", {"name": "acdc", "threshold": 0.1, "as": "acdc"}]


def config(folder, **changes):
    return toy_config(folder, methods=METHODS, evaluate={"edge_fractions": [0.05]}, **changes)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("transfer")
    one = config(folder, tasks=[{"name": "induction", "count": 3}])
    other = config(folder, tasks=[{"name": "induction", "count": 4}], model="toy:trained", name="other")
    return [discover(asked, local=True, quiet=True) for asked in (one, other)]


@pytest.mark.slow
def test_each_ones_circuits_are_run_by_the_others_model_and_prompts(runs, capsys):
    assert main(["compare", *(str(run.path) for run in runs), "--transfer", "--local", "--json"]) == 0
    said = capsys.readouterr()
    both = json.loads(said.out)["transferred"]
    assert [one["of"] for one in both] == [str(run.path) for run in runs]
    for found, judge, one in zip(runs, reversed(runs), both, strict=True):
        assert f"circuits of {found.path} on the prompts of {judge.path}: at most " in said.err
        assert [(row["method"], row["metric"]) for row in one["rows"]] == [
            ("eap", "logit_diff"),
            ("acdc", "kl_divergence"),
        ]
        model = load_model(judge.manifest["model"]["name"])
        batch = model.batch(judge.prompts("induction"))
        own = judge.faithfulness().set_index("method")["faithfulness"]
        for row in one["rows"]:
            top = None if row["method"] == "acdc" else int(0.05 * found.graph.n_edges)
            circuit = found.circuit(row["method"], "induction", top=top)
            alone = evaluate(circuit, model, [batch], metric=row["metric"])
            assert row["n_edges"] == circuit.n_edges
            assert row["faithfulness"] == pytest.approx(alone["faithfulness"].item(), abs=1e-5)
            assert row["own"] == own[row["method"]]
    # asked again, nothing is run
    assert main(["compare", *(str(run.path) for run in runs), "--transfer", "--local"]) == 0
    again = capsys.readouterr()
    assert "items to do" not in again.err
    assert "their own" in again.out


def test_circuits_of_another_graph_are_one_line(runs):
    class Elsewhere(Run):
        graph = Graph(n_layers=1, n_heads=1, n_kv_heads=1)

    with pytest.raises(CircuitsError, match="are of other graphs"):
        transfer_config(runs[0], Elsewhere(runs[1].directory), None, None)
