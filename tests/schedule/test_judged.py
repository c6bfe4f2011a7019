"""A chosen circuit is judged by prompts that did not choose it: which are run, what is found, what a killed run
keeps."""

import json
import re

import numpy as np
import pytest

from pipeline import discover, evaluate, load_model, open_run
from pipeline.evaluation.completeness import sampled
from pipeline.evaluation.resamples import bootstrap
from pipeline.evaluation.verdict import EVALUATIONS
from pipeline.report.sure import COLUMNS, sure_edges
from tests.listening import broken_off, evaluating
from tests.runs import content, toy_config

LOOK = [
    "sufficiency",
    "necessity",
    {"name": "minimality", "edges": 5},
    {"name": "chance", "draws": 8},
    {"name": "hypotheses", "draws": 4, "permutations": 19},
    {"name": "stability", "resamples": 20, "votes": 40, "p_del": [0.5]},
    {"name": "learning_curve", "draws": 4},
    {"name": "completeness", "draws": 3},
]
CONFIG = {
    "tasks": [{"name": "induction", "count": 8, "held_out": 8}],
    "evaluate": {"edge_fractions": [0.05, 0.12, 0.5, 1.0], "also": LOOK},
    "store": {"prompt_scores": ["eap"]},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return discover(toy_config(tmp_path_factory.mktemp("judged"), **CONFIG), local=True, quiet=True)


def value(run, method, evaluation, circuit, quantity):
    frame = run.evaluations()
    wanted = {"method": method, "evaluation": evaluation, "circuit": circuit, "quantity": quantity}
    for column, name in wanted.items():
        frame = frame[frame[column] == name]
    assert len(frame) == 1, wanted
    return frame["value"].item()


def test_no_method_sees_the_prompts_that_are_held_out(run):
    of_held_out = [item for item in run.directory.items if item.task == "induction-held-out"]
    assert {item.kind for item in of_held_out} == {"baseline"}
    clean = [{pair.pair.clean for pair in run.prompts(task)} for task in run.tasks]
    assert not clean[0] & clean[1]
    assert run.manifest["identity"]["tasks"]["induction-held-out"]["held_out_of"] == "induction"
    assert set(run.evaluations()["task"]) == {"induction-held-out"}


def test_the_task_of_a_run_is_the_one_that_is_not_held_out(run):
    assert run.found_on == ("induction",)
    assert run.choose("eap", None) == ("eap", "induction")
    assert run.circuit("eap", top=3).edge_names == run.circuit("eap", "induction", top=3).edge_names


def test_the_chosen_circuit_has_on_held_out_prompts_what_the_public_function_finds(run):
    curve = run.faithfulness().query("task == 'induction' and method == 'eap'")
    near = curve[(curve["faithfulness"] - 1).abs() <= 0.15]
    chosen = run.circuit("eap", "induction", top=int(near["n_edges"].min()))
    model = load_model("toy:planted")
    batch = model.batch(run.prompts("induction-held-out"))
    alone = evaluate(chosen, model, [batch])
    assert value(run, "eap", "sufficiency", "circuit", "n_edges") == chosen.n_edges
    assert value(run, "eap", "sufficiency", "circuit", "faithfulness") == pytest.approx(
        alone.faithfulness[0], abs=1e-5
    )
    twice = run.circuit("eap", "induction", top=2 * chosen.n_edges)
    found = value(run, "eap", "sufficiency", "twice", "faithfulness")
    assert found == pytest.approx(evaluate(twice, model, [batch]).faithfulness[0], abs=1e-5)
    chosen.mask.flags.writeable = False
    complement = type(chosen)(chosen.graph, ~chosen.mask)
    left = value(run, "eap", "necessity", "complement", "faithfulness")
    assert left == pytest.approx(evaluate(complement, model, [batch]).faithfulness[0], abs=1e-5)


def test_a_planted_circuit_is_sufficient_necessary_and_minimal(run):
    """What acdc keeps are the planted edges: the model has nothing else."""
    kept = run.circuit("acdc", "induction")
    assert value(run, "acdc", "sufficiency", "circuit", "faithfulness") == pytest.approx(1, abs=1e-3)
    assert value(run, "acdc", "necessity", "complement", "faithfulness") == pytest.approx(0, abs=0.05)
    assert value(run, "acdc", "minimality", "circuit", "costly") == 1
    assert value(run, "acdc", "chance", "random", "largest") < 0.5
    assert np.isnan(
        value(run, "acdc", "stability", "circuit", "jaccard")
    )  # what it would keep of others is not known
    assert kept.n_edges == value(run, "acdc", "sufficiency", "circuit", "n_edges")


def test_completeness_is_how_far_circuit_and_model_are_apart_without_the_same_nodes(run):
    circuit = run.circuit("acdc", "induction")
    model = load_model("toy:planted")
    batch = model.batch(run.prompts("induction-held-out"))
    named = {name: index for index, name in enumerate(node.name for node in run.graph.senders)}
    gone = [run.graph.senders[i].name for i in np.flatnonzero(sampled(circuit, 0, 1))]
    assert gone
    assert "input" not in gone
    left = ~np.isin(run.graph.edge_senders, [named[name] for name in gone])
    one, other = (
        evaluate(type(circuit)(run.graph, mask), model, [batch], metric="kl_divergence")
        for mask in (circuit.mask & left, left)
    )
    gap = abs(one.metric_circuit[0] - other.metric_circuit[0]) / abs(one.metric_full[0] - one.metric_empty[0])
    assert value(run, "acdc", "completeness", "without-1", "incompleteness") == pytest.approx(gap, abs=1e-5)
    # the model has nothing but the planted edges: without some of them both have as little
    assert value(run, "acdc", "completeness", "circuit", "largest") < 0.05
    assert value(run, "acdc", "completeness", "circuit", "whole") < 0.05


def test_hypotheses_have_p_values_as_small_as_their_draws_allow(run):
    assert value(run, "acdc", "hypotheses", "circuit", "sufficiency") == pytest.approx(1 / 5)
    assert value(run, "acdc", "hypotheses", "complement", "necessity") == pytest.approx(1 / 5)
    assert 0 < value(run, "acdc", "hypotheses", "complement", "independence") <= 1
    assert 0 < value(run, "acdc", "hypotheses", "circuit", "equivalence") <= 1


def test_stability_is_of_the_prompts_that_gave_the_scores(run):
    assert 0 < value(run, "eap", "stability", "circuit", "jaccard") <= 1
    assert value(run, "eap", "stability", "circuit", "null") < 0.2
    assert value(run, "eap", "stability", "deletion-0.5", "certified") >= 1


def test_every_edge_says_how_sure_it_is(run):
    found = (
        sure_edges(run, "induction", "eap", top=30, resamples=25, votes=200).set_index("edge_id").sort_index()
    )
    rows = run.prompt_scores("eap", "induction").to_numpy(dtype=np.float64)
    drawn = bootstrap(run.graph, rows, 30, "absolute", 25, 0)
    assert found["inclusion"].tolist() == drawn.mean(axis=0).tolist()
    assert found["in_circuit"].sum() == 30
    certain = found["certified"].fillna(value=False).to_numpy(dtype=bool)
    assert (found["inclusion"][certain] > 0.5).all()
    merged = run.scores("eap", "induction").set_index("edge_id").sort_index()
    # the interval of 95 % leaves out zero just where p is below .05
    outside = (merged["ci_low"] > 0) | (merged["ci_high"] < 0)
    assert ((found["p"] < 0.05) == outside.to_numpy()).all()
    assert (found["q"] >= found["p"]).all()
    decided = sure_edges(run, "induction", "acdc")
    assert decided[["p", "q", "inclusion", "certified"]].isna().all(axis=None)
    assert decided["in_circuit"].sum() == run.circuit("acdc", "induction").n_edges


@pytest.mark.slow
def test_the_edges_of_a_run_are_said_on_the_command_line(run, capsys):
    from flows.cli import main

    assert (
        main(["edges", str(run.path), "--task", "induction", "--method", "eap", "--rows", "3", "--json"]) == 0
    )
    rows = json.loads(capsys.readouterr().out)
    assert [set(row) for row in rows] == [set(COLUMNS)] * 3
    assert main(["edges", str(run.path), "--task", "induction", "--method", "acdc", "--rows", "3"]) == 0
    assert "need store: {prompt_scores: true}" in capsys.readouterr().out


def test_the_learning_curve_is_of_the_prompts_that_gave_the_scores(run):
    overlap = value(run, "eap", "learning_curve", "prompts-4", "jaccard")  # 8 prompts: two sets of 4
    enough = value(run, "eap", "learning_curve", "circuit", "enough")
    assert 0 < overlap <= 1
    assert enough == 4 if overlap >= 0.8 else np.isnan(enough)
    assert np.isnan(value(run, "acdc", "learning_curve", "circuit", "null"))


@pytest.mark.slow
def test_a_run_that_ends_while_it_judges_goes_on_with_what_is_left(run, tmp_path):
    config = toy_config(tmp_path, **CONFIG)
    done = broken_off(config, lambda names: "necessity" in names[-1])
    (folder,) = tmp_path.iterdir()
    kept = content(folder / "evaluations")
    with evaluating() as again:
        resumed = discover(config, local=True, quiet=True)
    assert not {*again} & {*done}
    assert content(resumed.path / "evaluations").items() >= kept.items()
    wanted = content(run.path / "evaluations")
    assert content(resumed.path / "evaluations") == wanted
    assert resumed.evaluations().equals(run.evaluations())


def test_a_circuit_holds_out_where_every_prompt_says_the_same(run):
    """What acdc keeps of the planted model has a faithfulness of 1 on every prompt, but for rounding."""
    from pipeline.report.essentials import essentials

    (card,) = (card for card in essentials(run)["verdicts"] if card["method"] == "acdc")
    assert {one["question"]: one["answer"] for one in card["judgements"]}["held out"] == "yes"


def test_the_page_reads_what_was_found_once(run, tmp_path, monkeypatch):
    from pipeline.report.html import write_report

    read, seen = type(run).evaluations, []
    monkeypatch.setattr(type(run), "evaluations", lambda self: seen.append(self) or read(self))
    write_report(open_run(run.path), tmp_path / "report.html")
    assert len(seen) == 1


def test_nobody_is_shown_rounding(run, capsys):
    from flows.cli import main

    kl = run.faithfulness().query("method == 'acdc'")["metric_full"]
    assert (kl.abs() < 1e-12).all()
    assert (kl != 0).any(), "this shows nothing: the KL of the model to itself is exactly 0 here"
    assert main(["show", str(run.path)]) == 0
    said = [
        line for line in capsys.readouterr().out.splitlines() if " hypotheses " not in line
    ]  # has p-values
    assert not [line for line in said if re.search(r"\de-\d", line)]
    assert re.search(r"kl_divergence is 0 with all edges", "\n".join(said))
    page = (run.path / "report.html").read_text().partition("</style>")[2]
    assert not re.findall(
        r".{30}\de−\d+", "\n".join(one for one in page.splitlines() if "hypotheses" not in one)
    )


def test_the_circuit_that_is_shown_is_the_one_that_is_judged(run):
    from pipeline.report.essentials import essentials

    facts = essentials(run)
    shown = {row["method"]: row["circuit"]["n_edges"] for row in facts["results"]}
    assert {card["method"]: card["n_edges"] for card in facts["verdicts"]} == shown


def test_without_prompts_held_out_a_circuit_is_judged_by_its_own_and_that_is_said(tmp_path):
    from pipeline.report.essentials import essentials

    own = {**CONFIG, "tasks": [{"name": "induction", "count": 8}], "methods": [{"name": "eap"}]}
    run = discover(toy_config(tmp_path, **own), local=True, quiet=True)
    assert set(run.evaluations()["evaluation"]) == {
        *(name for name in EVALUATIONS if name != "null_data"),
        "hypotheses",
        "learning_curve",
        "completeness",
    }
    (card,) = essentials(open_run(run.path))["verdicts"]
    answers = {one["question"]: one["answer"] for one in card["judgements"]}
    assert (card["task"], card["prompts"]) == ("induction", "induction")
    assert answers["sufficient"] in ("yes", "undecided")
    assert answers["held out"] == answers["beyond null data"] == "not asked"


def test_one_word_asks_for_all_that_a_verdict_is_made_of(tmp_path):
    config = toy_config(tmp_path, evaluate={"also": ["cpr_cmd", "verdict", {"name": "chance", "draws": 3}]})
    assert [one.name for one in config.evaluate.also] == [
        "cpr_cmd",
        "chance",
        *(name for name in EVALUATIONS if name != "chance"),
    ]
    assert (
        config.evaluate.key
        == toy_config(
            tmp_path,
            evaluate={**config.evaluate.model_dump(mode="json"), "bars": {"stable": 0.5}},
        ).evaluate.key
    )  # a bar that changes no number makes nothing anew
