"""Circuits on prompts that are not their own: of other tasks, and of other kinds of prompts within one."""

import json

import numpy as np
import pytest

from pipeline import Circuit, discover, evaluate, load_model, make_plan
from pipeline.config import RunConfig
from pipeline.report.essentials import essentials
from pipeline.report.html import render
from pipeline.schedule import evaluation
from pipeline.tasks import GreaterThan, Induction
from tests.listening import broken_off, evaluating
from tests.runs import content
from tests.slowly import slow

MODEL = "toy:trained"


def config(folder):
    return RunConfig.from_mapping(
        {
            "name": "related",
            "model": MODEL,
            "tasks": [
                {"name": "file", "path": str(folder.parent / "mixed.jsonl")},
                {"name": "induction", "count": 12, "held_out": 8, "as": "alone"},
            ],
            "methods": ["eap", {"name": "acdc", "threshold": 0.1, "metric": "logit_diff", "as": "acdc"}],
            "shards": {"prompts": 12},
            "store": {"prompt_scores": ["eap"]},
            "evaluate": {
                "edge_fractions": [0.1, 0.4],
                "also": ["across", {"name": "clusters", "edge_fraction": 0.2}],
            },
            "output": str(folder),
        }
    )


@pytest.fixture(scope="module")
def model():
    return load_model(MODEL)


@pytest.fixture(scope="module")
def output(tmp_path_factory, model):
    """A folder beside a file in which prompts of two behaviours follow each other in turn."""
    folder = tmp_path_factory.mktemp("related")
    both = zip(
        *(task(count=12).pairs(model.tokenizer, seed=0) for task in (GreaterThan, Induction)), strict=True
    )
    with (folder / "mixed.jsonl").open("w") as file:
        for pair in (pair for pairs in both for pair in pairs):
            fields = ("clean", "corrupted", "answers", "wrong_answers")
            file.write(json.dumps({field: getattr(pair, field) for field in fields}) + "\n")
    return folder / "results"


@pytest.fixture(scope="module")
def run(output):
    return discover(config(output), local=True, quiet=True)


def found(run, evaluation, method="eap"):
    frame = run.evaluations()
    frame = frame[(frame["evaluation"] == evaluation) & (frame["method"] == method)]
    names = frame["circuit"].where(frame["circuit"].notna(), None)
    keys = zip(frame["task"], names.astype(object).replace({np.nan: None}), frame["quantity"], strict=True)
    return dict(zip(keys, frame["value"], strict=True))


@pytest.mark.parametrize("method", ["eap", *slow("acdc")])
def test_the_circuit_of_a_task_does_on_anothers_prompts_what_the_public_function_finds(run, model, method):
    values = found(run, "across", method)
    tasks = {"mixed": "mixed", "alone": "alone-held-out"}  # prompts that are held out judge
    assert {(task, circuit) for task, circuit, _ in values} == {(b, a) for a in tasks for b in tasks.values()}
    for task in tasks:
        curve = run.faithfulness().query(f"method == '{method}' and task == '{task}'")
        away = (curve["faithfulness"] - 1).abs()
        near = curve[away <= 0.15] if (away <= 0.15).any() else curve[away == away.min()]
        top = None if method == "acdc" else int(near["n_edges"].min())
        circuit = run.circuit(method, task, top=top)
        for prompts in tasks.values():
            alone = evaluate(circuit, model, [model.batch([pair]) for pair in run.prompts(prompts)])
            assert values[prompts, task, "faithfulness"] == pytest.approx(alone.faithfulness[0], abs=1e-5)


def test_prompts_of_two_behaviours_are_told_apart_and_those_of_one_are_not(run):
    kinds = run.clusters("eap", "mixed")
    assert kinds["prompt_id"].tolist() == list(range(24))
    of = [set(kinds["cluster"][start::2]) for start in (0, 1)]
    assert not of[0] & of[1]
    values = found(run, "clusters")
    assert values["mixed", None, "clusters"] == len(of[0] | of[1]) == 2
    assert (values["alone", None, "clusters"], set(run.clusters("eap", "alone")["cluster"])) == (1, {0})
    assert not any(task == "alone-held-out" for task, _, _ in values)
    assert np.isnan(found(run, "clusters", "acdc")["mixed", None, "clusters"])


def test_a_circuit_of_one_kind_is_judged_by_prompts_that_it_was_not_found_on(run, model):
    rows, kinds = run.prompt_scores("eap", "mixed"), run.clusters("eap", "mixed")
    values, pairs = found(run, "clusters"), run.prompts("mixed")
    members = [kinds["prompt_id"][kinds["cluster"] == c].tolist() for c in range(2)]
    size = int(0.2 * run.graph.n_edges)
    sums = np.zeros(2)
    for judge in (0, 1):
        own = rows.loc[members[0][1 - judge :: 2]].to_numpy(dtype=np.float64).mean(axis=0)
        mask = np.zeros(run.graph.n_edges, dtype=bool)
        mask[np.argsort(-np.abs(own), kind="stable")[:size]] = True
        batches = [model.batch([pairs[i]]) for i in members[1][judge::2]]
        one = evaluate(Circuit(run.graph, mask), model, batches)
        gain = one.metric_circuit[0] - one.metric_empty[0], one.metric_full[0] - one.metric_empty[0]
        sums += len(batches) * np.asarray(gain)
    expected = sums[0] / sums[1]
    assert values["mixed", "cluster-0 on cluster-1", "faithfulness"] == pytest.approx(expected, abs=1e-5)


def test_circuits_are_counted_before_they_are_run(output):
    costs = evaluation(make_plan(config(output)))
    assert costs["mixed", "across"].evaluations == 24 * 2 * 2  # prompts x tasks x methods
    assert costs["mixed", "clusters"].evaluations == 24 * 2 * 21  # eap alone: both halves, 20 kinds and all
    assert ("alone", "across") not in costs
    assert ("alone-held-out", "clusters") not in costs


@pytest.mark.slow
def test_a_run_that_ends_in_between_goes_on_with_what_is_left(run, output):
    again = config(output.parent / "again")
    done = broken_off(again, lambda names: names[-1] == "mixed/evaluation=clusters/1")
    with evaluating() as asked:
        resumed = discover(again, local=True, quiet=True)
    assert done
    assert not {*done} & {*asked}
    assert content(resumed.path / "evaluations") == content(run.path / "evaluations")
    assert resumed.evaluations().equals(run.evaluations())


def test_matrices_are_shown_with_their_numbers(run, capsys):
    from flows.cli import main

    facts = essentials(run)
    shown = {(one["evaluation"], one["method"]): one for one in facts["matrices"]}
    assert set(shown) == {("across", "eap"), ("across", "acdc"), ("clusters", "eap")}
    matrix = shown["across", "eap"]
    assert (matrix["circuits"], matrix["prompts"]) == (["mixed", "alone"], ["mixed", "alone-held-out"])
    value = found(run, "across")["alone-held-out", "mixed", "faithfulness"]
    assert matrix["cells"][0][1]["value"] == value
    assert shown["clusters", "eap"]["circuits"][-1] == "all"
    page = render(run)
    assert f">{value:.2f}<" in page
    assert "Across tasks" in page
    assert "one kind of prompts" in page
    assert "prompt-0" not in page
    assert main(["show", str(run.path)]) == 0
    said = capsys.readouterr().out
    assert "eap, faithfulness of the circuit of a row on the prompts of a column" in said
    assert "prompt-0" not in said
