"""A run from config to report, in this process: what is there when it has ended."""

import json
from collections import Counter

import numpy as np
import pandas as pd
import pytest

from pipeline import load_model, load_scores
from pipeline.config.sections import Failures
from pipeline.core.circuit import Circuit
from pipeline.core.items import Item
from pipeline.evaluation import Auroc, evaluate
from pipeline.methods import Eap
from pipeline.schedule import evaluation, make_plan
from pipeline.workers.circuit_values import values_of
from tests.listening import go
from tests.runs import toy_config


@pytest.fixture(scope="module")
def evaluated():
    """What the circuits of the shared run have cost, once it has ended."""
    return Counter()


@pytest.fixture(scope="module")
def finished(tmp_path_factory, evaluated):
    """A complete run with every kind of item, to be read only."""

    def counting(name, circuits, subjects, model, *others):
        before = vars(model.counters).copy()
        values = values_of(name, circuits, subjects, model, *others)
        evaluated.update({name: n - before[name] for name, n in vars(model.counters).items()})
        evaluated["rows"] = len(circuits)
        return values

    methods = [
        {"name": "eap"},
        {"name": "eap_ig", "ablation": "mean"},
        {"name": "acdc", "threshold": 0.01, "scope": "shard", "as": "acdc"},
        {"name": "edge_patching"},
        {"name": "node_patching"},
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.workers.execute.values_of", counting)
        return go(toy_config(tmp_path_factory.mktemp("finished"), methods=methods))


def test_every_item_lands_and_the_run_says_so(finished):
    run, listener = finished
    assert run.status()["complete"]
    assert sorted(listener.names("item")) == sorted(item.name for item in run.directory.items)
    assert len(run.directory.items) == 1 + 3 * 6  # statistics, then baseline and five methods in three shards
    assert (run.path / "_SUCCESS.json").is_file()
    assert (run.path / "report.html").stat().st_size > 1000
    assert not list(run.path.glob("failures/**/*.json"))
    assert not (run.path / ".lock").exists()
    assert not (run.path / ".reserve").exists()


@pytest.mark.parametrize(("folder", "level"), [("aggregate", "aggregate"), ("scores", "shard")])
def test_pandas_alone_reads_the_scores_with_their_task_and_method(finished, folder, level):
    run, _ = finished
    columns = ["task", "method", "edge_id", "n_prompts"]
    alone = pd.read_parquet(run.path / folder)[columns].astype({"task": str, "method": str})
    expected = load_scores(run.path, level=level)[columns].astype({"task": str, "method": str})
    assert sorted(alone.itertuples(index=False)) == sorted(expected.itertuples(index=False))


def test_what_was_planned_is_what_was_counted(finished):
    run, _ = finished
    plan = make_plan(toy_config(run.path.parent, methods=run.config["methods"]))
    footers = run.footers().set_index("item")
    assert len(footers) == len(plan.items)
    for item in plan.items:
        counted, planned = footers.loc[item.name], plan.cost(item)
        assert counted.forward_passes == planned.forward_passes, item.name
        assert counted.backward_passes == planned.backward_passes, item.name
        if planned.evaluations_at_most:
            assert 0 < counted.evaluations <= planned.evaluations, item.name
        else:
            assert counted.evaluations == planned.evaluations, item.name


def test_the_work_of_evaluation_that_was_planned_is_what_was_counted(finished, evaluated):
    run, _ = finished
    plan = make_plan(toy_config(run.path.parent, methods=run.config["methods"]))
    cost = evaluation(plan)["induction", "faithfulness"]
    # 12 prompts. Recorded: clean and corrupted, whatever the metric, and clean for the mean; these are all edges
    # and none. Patched: 2 sizes of eap and edge_patching, 2 of eap_ig, what acdc keeps.
    assert (cost.forward_passes, cost.evaluations, cost.rows) == (12 * 3, 12 * (4 + 2 + 1), 10)
    assert evaluated["forward_passes"] == cost.forward_passes
    assert cost.evaluations_at_most, "eap and edge_patching may share a circuit once nothing dangles"
    circuits = [
        run.circuit(method, "induction", top=max(1, int(size * run.graph.n_edges))).pruned.edge_names
        for method in ("eap", "edge_patching")
        for size in (0.05, 0.5)
    ]
    assert evaluated["evaluations"] == cost.evaluations - 12 * (len(circuits) - len(set(circuits)))
    assert evaluated["backward_passes"] == cost.backward_passes == 0
    assert evaluated["rows"] == cost.rows == len(run.faithfulness())


def test_nothing_is_evaluated_where_no_edge_is_scored(tmp_path):
    assert evaluation(make_plan(toy_config(tmp_path, methods=[{"name": "node_patching"}]))) == {}


def test_the_circuits_of_every_evaluation_are_planned_as_they_are_counted(tmp_path, monkeypatch):
    def halves(self, subject):
        tops = (subject.scores.graph.n_edges // 2, subject.scores.graph.n_edges // 4)
        return {str(top): Circuit.from_scores(subject.scores, top=top) for top in tops}

    monkeypatch.setattr(Auroc, "n_circuits", lambda self, graph, *, decides: 2)
    monkeypatch.setattr(Auroc, "circuits", halves)
    counted: dict[str, Counter[str]] = {}

    def counting(name, circuits, subjects, model, *others):
        before = vars(model.counters).copy()
        values = values_of(name, circuits, subjects, model, *others)
        _, of, _ = name.split("/")
        spent = {count: n - before[count] for count, n in vars(model.counters).items()}
        counted.setdefault(of.removeprefix("evaluation="), Counter()).update(spent)
        return values

    monkeypatch.setattr("pipeline.workers.execute.values_of", counting)
    methods = [{"name": "eap"}, {"name": "eap_ig", "ablation": "mean"}, {"name": "node_patching"}]
    config = toy_config(
        tmp_path, methods=methods, evaluate={"edge_fractions": [0.1], "also": ["auroc", "cpr_cmd"]}
    )
    planned = evaluation(make_plan(config))
    go(config)
    assert planned.keys() == {("induction", "faithfulness"), ("induction", "auroc")}, "cpr_cmd runs none"
    for (_, name), cost in planned.items():
        for count in ("forward_passes", "backward_passes", "evaluations"):
            assert counted[name][count] == getattr(cost, count), (name, count)
    assert planned["induction", "auroc"].evaluations == 12 * 2 * 2


@pytest.mark.parametrize(
    ("share", "items", "failures"), [(0.1, 30, 3), (0.05, 9, 1), (0.29, 100, 29), (0, 7, 0), (1.0, 7, 7)]
)
def test_a_tolerated_share_of_items_is_a_whole_number_without_the_noise_of_floats(share, items, failures):
    assert Failures(tolerate=share).tolerated(items) == failures


def test_footers_say_how_an_item_was_computed(finished):
    run, _ = finished
    footers = run.footers()
    assert set(footers.device) == {"cpu"}
    assert set(footers.attempt) == {1}
    assert set(footers.batch_size) == {32}
    assert (footers.seconds > 0).all()
    assert (footers.peak_memory_bytes > 50e6).all(), "torch alone takes more"
    assert json.loads(footers.versions[0])["torch"]


def test_the_baseline_holds_the_stock_models_metrics(finished):
    import torch
    from transformers import AutoModelForCausalLM

    from pipeline.models.toy import toy_path

    run, _ = finished
    stock = AutoModelForCausalLM.from_pretrained(toy_path("toy:planted"), dtype=torch.float32).eval()
    frame = run.baseline("induction")
    frame = frame[frame.metric == "logit_diff"].set_index("prompt_id")
    assert list(frame.index) == list(range(12))
    for prompt in run.prompts("induction"):
        for side in ("clean", "corrupted"):
            with torch.no_grad():
                logits = stock(torch.tensor([getattr(prompt, side)])).logits[0, -1]
            expected = logits[list(prompt.answers)].mean() - logits[list(prompt.wrong_answers)].mean()
            assert frame.loc[prompt.prompt_id, side] == pytest.approx(float(expected), abs=1e-5)


def test_faithfulness_is_that_of_all_prompts_at_once(finished):
    """Shards, masks of several methods in one sweep and merging must not change what one batch gives."""
    run, _ = finished
    model = load_model("toy:planted")
    batch = model.batch(run.prompts("induction"))
    table = run.faithfulness()
    assert set(table.method) == {"eap", "eap_ig-mean", "acdc", "edge_patching"}
    for row in table[table.method != "eap_ig-mean"].itertuples():
        kept = {"top": row.n_edges} if row.method != "acdc" else {}
        circuit = run.circuit(method=row.method, **kept)
        expected = evaluate(circuit, model, [batch], metric=row.metric).iloc[0]
        assert row.n_edges_pruned == expected.n_edges_pruned
        for column in ("metric_full", "metric_empty", "metric_circuit", "faithfulness"):
            assert getattr(row, column) == pytest.approx(expected[column], abs=1e-5), (row.method, column)


def test_sizes_are_the_floor_of_the_fractions_and_the_kept_set_has_none(finished):
    run, _ = finished
    table = run.faithfulness()
    eap = table[table.method == "eap"]
    assert list(eap.n_edges) == [int(f * run.graph.n_edges) for f in (0.05, 0.5, 1.0)]
    assert eap.faithfulness.iloc[-1] == pytest.approx(1.0, abs=1e-6)
    (acdc,) = table[table.method == "acdc"].itertuples()
    assert np.isnan(acdc.edge_fraction)
    assert acdc.metric == "kl_divergence"


def test_circuits_are_written_with_names_and_scores(finished):
    run, _ = finished
    files = {path.stem for path in (run.path / "circuits").iterdir()}
    assert {"induction--acdc--kept", "induction--eap--0.05"} <= files
    written = json.loads((run.path / "circuits" / "induction--acdc--kept.json").read_text())
    assert {edge["edge"] for edge in written["edges"]} == set(run.circuit(method="acdc").pruned.edge_names)
    assert written["n_edges_pruned"] == len(written["edges"])


def test_shards_of_a_run_merge_to_the_scores_of_all_prompts(finished):
    run, _ = finished
    model = load_model("toy:planted")
    scores = Eap().score(model, [model.batch(run.prompts("induction"))])
    frame = load_scores(run.path, method="eap")
    assert frame.score.to_numpy() == pytest.approx(scores.score, abs=1e-6 * np.abs(scores.score).max())
    assert isinstance(run.circuit(method="eap", top=5), Circuit)


def test_statistics_of_a_run_come_before_what_uses_them(finished):
    _, listener = finished
    assert listener.names("item")[0] == Item("statistics", "induction", None, 0).name
