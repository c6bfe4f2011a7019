"""The mean of several methods' scores, by hand; and as a method of a run that passes nothing through a model."""

import json

import numpy as np
import pytest

from pipeline import discover, load_model, make_plan
from pipeline.core.errors import CircuitsError, ConfigError
from pipeline.core.graph import Graph
from pipeline.core.scores import EdgeScores, Moments
from pipeline.methods.ensemble import Ensemble, mean_of
from pipeline.schedule import evaluation_table, work_table
from pipeline.tasks import Induction
from pipeline.workers.execute import compute
from tests.runs import content, toy_config

GRAPH = Graph(1, 1, 1)
METHODS = [
    {"name": "ensemble", "of": ["eap", "eap_ig"]},
    {"name": "eap"},
    {"name": "eap_ig"},
]
EVALUATE = {
    "edge_fractions": [0.05, 0.5, 1.0],
    "also": ["sufficiency", {"name": "stability", "votes": 0, "resamples": 10}],
}
SMALL = {"tasks": [{"name": "induction", "count": 4}], "shards": {"prompts": 2}}
CONFIG = {**SMALL, "methods": METHODS, "store": {"prompt_scores": True}, "evaluate": EVALUATE}
PLAIN = {**CONFIG, "evaluate": {"edge_fractions": [0.05, 1.0]}}


def scored(*rows, keep=True):
    """Scores of the first edges on as many prompts as there are rows; all others are 0."""
    table = np.zeros((len(rows), GRAPH.n_edges))
    table[:, : len(rows[0])] = rows
    return EdgeScores.from_moments(GRAPH, Moments.of(table), per_prompt=table if keep else None)


def test_the_mean_is_over_methods_and_its_spread_over_prompts():
    found = mean_of([scored([1, 4], [3, 0]), scored([3, -2], [9, -2])])
    assert found.score[:3].tolist() == [4, 0, 0]  # (2 + 6) / 2, (2 - 2) / 2
    assert found.std[:3].tolist() == [2, 1, 0]  # of 2 and 6; of 1 and -1
    assert found.per_prompt[:, :2].tolist() == [[2, 1], [6, -1]]
    assert set(found.n_prompts) == {2}


def test_what_not_all_have_scored_has_no_mean_and_without_every_prompt_there_is_no_spread():
    holed = scored([1, 4], [3, 0])
    n, score = holed.n_prompts.copy(), holed.score.copy()
    n[1], score[1] = 0, np.nan
    holed = EdgeScores(GRAPH, score, holed.std, n)
    found = mean_of([scored([3, 3]), holed, scored([1, 1], [1, 1])])
    assert np.isnan(found.score).all()  # never on as many prompts
    found = mean_of([scored([3, 3], [3, 3]), holed])
    assert found.score[0] == 2.5
    assert np.isnan([found.score[1], *found.std]).all()
    assert found.n_prompts[:2].tolist() == [2, 0]


def test_what_has_no_mean_is_refused():
    kept = scored([1.0])
    kept = EdgeScores(GRAPH, kept.score, kept.std, kept.n_prompts, kept=kept.score > 0)
    with pytest.raises(CircuitsError, match="no score"):
        mean_of([scored([1.0]), kept])
    model = load_model("toy:planted")
    batch = model.batch(Induction(count=2).pairs(model.tokenizer, seed=0))
    with pytest.raises(CircuitsError, match=r"ensemble reads what methods of the same run .*mean_of"):
        Ensemble(of=("eap", "eap_ig")).score(model, [batch])


@pytest.mark.parametrize(
    ("others", "ensemble", "words"),
    [
        (["eap"], {"of": ["eap", "eap_gi"]}, "unknown method 'eap_gi'"),
        (["eap"], {"of": ["eap"]}, "at least 2"),
        (["eap"], {"of": ["eap", "eap"]}, "a method twice"),
        (["eap", "acdc"], {"of": ["eap", "acdc"]}, "acdc decides which edges to keep"),
        (["eap", "node_patching"], {"of": ["eap", "node_patching"]}, "scores nodes"),
        (["eap", "eap_ig"], {"of": ["eap", "ensemble"], "as": "ensemble"}, "is a combination itself"),
        (
            ["eap", {"name": "eap_ig", "metric": "nll"}],
            {"of": ["eap", "eap_ig-nll"]},
            "of other units",
        ),
        (["eap", {"name": "eap", "positions": "last"}], {"of": ["eap", "eap-last"]}, "of other units"),
    ],
)
def test_what_means_nothing_is_refused_in_one_line(tmp_path, others, ensemble, words):
    with pytest.raises(ConfigError) as caught:
        toy_config(tmp_path, methods=[*others, {"name": "ensemble", **ensemble}])
    assert words in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_it_is_measured_as_its_methods_are(tmp_path):
    methods = [{"name": name, "metric": "prob_diff", "ablation": "zero"} for name in ("eap", "edge_patching")]
    both = {"name": "ensemble", "of": ["eap-prob_diff-zero", "edge_patching-prob_diff-zero"], "as": "both"}
    found = toy_config(tmp_path, methods=[*methods, both]).method_ids["both"]
    assert (found.metric, found.ablation) == ("prob_diff", "zero")


def test_its_items_are_others_where_those_that_it_combines_are(tmp_path):
    def keys(steps):
        of = [
            {"name": "eap"},
            {"name": "eap_ig", "steps": steps, "as": "ig"},
            {"name": "ensemble", "of": ["eap", "ig"]},
        ]
        return {item.name: key for item, key in make_plan(toy_config(tmp_path, methods=of)).item_keys.items()}

    one, other = keys(2), keys(3)
    assert one["induction/eap/0"] == other["induction/eap/0"]
    assert one["induction/ensemble-eap-ig/0"] != other["induction/ensemble-eap-ig/0"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return discover(toy_config(tmp_path_factory.mktemp("ensemble"), **CONFIG), local=True, quiet=True)


def test_an_ensemble_is_a_method_like_the_others_without_a_pass(run):
    assert run.is_complete
    of_each = {name: run.edge_scores(name, "induction") for name in ("eap", "eap_ig")}
    found = run.edge_scores("ensemble-eap-eap_ig", "induction")
    mean = (of_each["eap"].score + of_each["eap_ig"].score) / 2
    assert found.score == pytest.approx(mean, abs=1e-6)
    rows = [run.prompt_scores(name, "induction").to_numpy(dtype=np.float64) for name in of_each]
    assert found.std == pytest.approx(np.mean(rows, axis=0).std(axis=0), abs=1e-6)
    footers = run.footers().set_index("item")
    own = footers[footers.index.str.contains("ensemble")]
    assert len(own) == 2
    assert (own[["forward_passes", "backward_passes", "evaluations"]] == 0).all(axis=None)


def test_an_ensemble_is_evaluated_compared_and_exported_beside_the_others(run, tmp_path):
    from pipeline.report.compared import compared
    from pipeline.store.run.export import export

    frame = run.faithfulness()
    assert set(frame["method"]) == {"eap", "eap_ig", "ensemble-eap-eap_ig"}
    stable = (
        run.evaluations().query("method == 'ensemble-eap-eap_ig' and quantity == 'jaccard'")["value"].item()
    )
    assert 0 < stable <= 1
    pairs = {(row["method"], row["other_method"]) for row in compared(run)}
    assert len(pairs) == 3
    (path,) = export(run, "mib", tmp_path, task="induction", method="ensemble-eap-eap_ig").paths
    written = json.loads(path.read_text())["edges"]
    found = dict(
        zip(run.graph.edge_names, run.edge_scores("ensemble-eap-eap_ig", "induction").score, strict=True)
    )
    assert {name: edge["score"] for name, edge in written.items()} == pytest.approx(found)


def test_a_plan_counts_it_as_rows_alone(run, tmp_path):
    plan = make_plan(toy_config(tmp_path, **CONFIG))
    (row,) = (row for row in work_table(plan) if row["method"] == "ensemble-eap-eap_ig")
    assert (row["items"], row["forward_passes"], row["backward_passes"], row["evaluations"]) == (2, 0, 0, 0)
    assert row["rows"] == 2 * plan.graph.n_edges
    alone = make_plan(toy_config(tmp_path, **{**CONFIG, "methods": METHODS[1:]}))
    two, three = ({row["method"]: row["rows"] for row in evaluation_table(one)} for one in (alone, plan))
    assert three["faithfulness"] == two["faithfulness"] * 3 / 2


@pytest.mark.slow
def test_a_run_that_ends_before_it_goes_on_with_the_same_bytes(run, tmp_path, monkeypatch):
    seen = []

    def dying(item, replica):
        if item.method == "ensemble-eap-eap_ig" and item.shard == 1:
            raise KeyboardInterrupt
        seen.append(item.name)
        return compute(item, replica)

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.workers.execute.compute", dying)
        with pytest.raises(KeyboardInterrupt):
            discover(toy_config(tmp_path, **CONFIG), local=True, quiet=True)
    assert [name for name in seen if "ensemble" in name] == ["induction/ensemble-eap-eap_ig/0"]
    assert len(seen) == 7  # two shards of the baseline and of both methods came before
    resumed = discover(toy_config(tmp_path, **CONFIG), local=True, quiet=True)
    for folder in ("aggregate", "circuits"):  # the files of items say when they were made
        assert content(resumed.path / folder) == content(run.path / folder)


@pytest.mark.slow
def test_a_finished_run_gets_an_ensemble_and_computes_nothing_else(tmp_path, monkeypatch):
    first = toy_config(tmp_path, **{**PLAIN, "methods": METHODS[1:]})
    run = discover(first, local=True, quiet=True)
    seen = []

    def counting(item, replica):
        seen.append(item.method)
        return compute(item, replica)

    monkeypatch.setattr("pipeline.workers.execute.compute", counting)
    more = toy_config(tmp_path, **PLAIN)
    extended = discover(first.extended_by(more), local=True, quiet=True, extend=run.path)
    assert extended.is_complete
    assert set(seen) == {"ensemble-eap-eap_ig"}


@pytest.mark.slow
def test_without_the_scores_of_what_it_combines_it_waits(tmp_path, monkeypatch):
    def failing(item, replica):
        if item.method == "eap":
            raise ValueError("no")
        return compute(item, replica)

    config = toy_config(tmp_path, **PLAIN, failures={"tolerate": 1.0, "retries": 0})
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.workers.execute.compute", failing)
        run = discover(config, local=True, quiet=True)
    assert not run.is_complete
    assert {failure["method"] for failure in run.failures()} == {"eap"}
    assert not (run.path / "scores" / "task=induction" / "method=ensemble-eap-eap_ig").exists()


def test_scores_of_single_prompts_are_kept_with_those_that_they_come_from(tmp_path):
    kept = {"prompt_scores": ["eap", "ensemble-eap-eap_ig"]}
    with pytest.raises(ConfigError, match="name eap_ig too"):
        toy_config(tmp_path, methods=METHODS, store=kept)
    some = toy_config(tmp_path, methods=METHODS, store={"prompt_scores": ["eap"]})
    assert some.prompt_scores == {"eap": "float32"}
