"""Several rules of selection in one run: each gives what it gives alone, one that is added is all that is run, and the
circuit that is judged is the best of theirs."""

import json
from collections import Counter

import numpy as np
import pandas as pd
import pytest

from flows.cli import main
from flows.printing import plan_facts
from pipeline import RunConfig, discover, open_run
from pipeline.core.errors import ConfigError
from pipeline.schedule import make_plan
from pipeline.store.run.circuits import SCHEMA
from pipeline.store.run.evaluations import files
from pipeline.workers.circuit_values import values_of
from tests.runs import toy_config, toy_mapping

LOOK = ["auroc", "cpr_cmd", "sufficiency"]
SIZES = [0.0275, 0.05, 1.0]  # of 262 edges: 7, 13 and all
FACTS = {"task": "induction", "method": "eap"}


def config(folder, rank):
    return toy_config(
        folder,
        tasks=[{"name": "induction", "count": 6, "held_out": 6}],
        shards={"prompts": 6},
        evaluate={"edge_fractions": SIZES, "rank": rank, "also": LOOK},
    )


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return discover(config(tmp_path_factory.mktemp("alone"), "greedy"), local=True, quiet=True)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    return discover(config(tmp_path_factory.mktemp("both"), ["absolute", "greedy"]), local=True, quiet=True)


@pytest.fixture(scope="module")
def added(tmp_path_factory):
    """The run of two rules, the second of which was added; what was run for it; and the files that were there."""
    folder, counted, ran = tmp_path_factory.mktemp("added"), Counter(), []

    def counting(name, circuits, subjects, model, *others):
        before = vars(model.counters).copy()
        values = values_of(name, circuits, subjects, model, *others)
        counted.update({count: n - before[count] for count, n in vars(model.counters).items()})
        ran.extend(circuits)
        return values

    first = discover(config(folder, "absolute"), local=True, quiet=True)
    there = {path: path.read_bytes() for path in files(first.path)}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("pipeline.workers.execute.values_of", counting)
        run = discover(config(folder, ["absolute", "greedy"]), local=True, quiet=True)
    assert run.path == first.path, "a rule is no part of what a run is"
    return run, ran, there, counted


def rows(run, **wanted):
    frame = run.faithfulness()
    for column, name in wanted.items():
        frame = frame[frame[column] == name]
    return frame.reset_index(drop=True)


@pytest.mark.slow
def test_a_rule_finds_beside_others_what_it_finds_alone(alone, both):
    for task in both.tasks:
        mine = rows(both, task=task, method="eap", rank="greedy").drop(columns="rank")
        theirs = rows(alone, task=task, method="eap")
        assert mine.drop(columns=["metric_circuit", "faithfulness"]).equals(
            theirs.drop(columns=["metric_circuit", "faithfulness"])
        )
        assert np.allclose(mine["faithfulness"], theirs["faithfulness"], atol=1e-5)


def test_what_a_method_has_decided_stands_there_once_and_by_no_rule(both):
    kept = rows(both, method="acdc")
    assert len(kept) == len(both.tasks)
    assert kept["rank"].isna().all()


@pytest.mark.slow
def test_a_rule_that_is_added_is_all_that_is_run(added):
    run, ran, there, _ = added
    faithfulness = {label for label in ran if label[1] == "faithfulness"}
    assert {circuit.split("/")[0] for _, _, circuit in faithfulness} == {"greedy"}
    assert {method for method, _, _ in faithfulness} == {"eap"}
    kept = {path: content for path, content in there.items() if "evaluation=sufficiency" not in str(path)}
    assert kept
    assert all(path.read_bytes() == content for path, content in kept.items())
    assert len(files(run.path)) == len(there) + 2, "a file per task"


def test_the_circuit_that_is_judged_is_the_best_of_all_rules_where_it_was_found(both):
    """Of 7 edges both are within .15 of 1, and greedy is nearer."""
    seven = rows(both, **FACTS).query("n_edges == 7").set_index("rank")["faithfulness"]
    assert ((seven - 1).abs() < 0.15).all()
    assert abs(seven["greedy"] - 1) < abs(seven["absolute"] - 1)
    found = both.evaluations().query(
        "evaluation == 'sufficiency' and method == 'eap' and circuit == 'circuit'"
    )
    assert set(found["rank"]) == {"greedy"}
    assert set(found["task"]) == {"induction-held-out"}
    numbers = found.set_index("quantity")["value"]
    assert numbers["n_edges"] == 7
    held_out = rows(both, task="induction-held-out", method="eap", rank="greedy").query("n_edges == 7")
    assert numbers["faithfulness"] == pytest.approx(held_out["faithfulness"].item(), abs=1e-5)


def test_numbers_say_their_rule_where_they_have_one(both):
    found = both.evaluations().query("method == 'eap' and task == 'induction'")
    assert set(found.query("evaluation == 'cpr_cmd'")["rank"]) == {"absolute", "greedy"}
    assert found.query("evaluation == 'auroc'")["rank"].isna().all(), "it looks at scores alone"


@pytest.mark.slow
def test_of_one_rule_no_table_has_a_column(alone):
    assert "rank" not in alone.evaluations()
    assert [*alone.faithfulness()] == [name for name in SCHEMA.names if name != "rank"]


def test_what_both_rules_cost_is_planned(both, tmp_path):
    planned = plan_facts(make_plan(config(tmp_path, ["absolute", "greedy"])), None)["evaluation"]
    of = {row["task"]: row for row in planned if row["method"] == "faithfulness"}
    # 6 prompts: 2 sizes below 1 by 2 rules and what acdc keeps; clean and corrupted recorded once for both metrics
    assert of["induction"]["evaluations"] == 6 * (2 * 2 + 1)
    assert of["induction"]["forward_passes"] == 6 * 2
    assert of["induction"]["rows"] == len(rows(both, task="induction"))


@pytest.mark.slow
def test_only_the_circuits_of_an_added_rule_are_counted(added):
    *_, counted = added
    # of 6 + 6 prompts: by greedy 7 and 13 edges, the latter also as the circuit of acdc may be; then the chosen
    # circuits of both methods on 6, with twice the size of one
    assert 0 < counted["evaluations"] <= 12 * 2 + 6 * 3


def test_both_rules_are_shown(both, capsys):
    assert main(["show", str(both.path)]) == 0
    printed = capsys.readouterr().out
    assert "by greedy, the best of its rules" in printed
    assert main(["show", str(both.path), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["ranks"] == ["absolute", "greedy"]
    (card,) = (one for one in facts["verdicts"] if one["method"] == "eap")
    assert (card["rank"], card["n_edges"]) == ("greedy", 7)
    (shown,) = (one for one in facts["results"] if one["method"] == "eap")
    assert "selected by greedy, the circuit that is judged" in shown["circuit"]["words"]
    assert main(["show", str(both.path), "--pareto"]) == 0
    assert "greedy" in capsys.readouterr().out
    page = (both.path / "report.html").read_text()
    assert "eap absolute" in page
    assert "7 edges by greedy, the best of its rules" in page
    assert main(["verify", str(both.path)]) == 0


@pytest.mark.slow
def test_circuits_are_compared_by_every_rule_of_the_run(both, capsys):
    assert main(["compare", str(both.path), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert [one["rank"] for one in row["overlaps"]] == ["absolute"] * 3 + ["greedy"] * 3


def test_the_circuits_lie_beside_the_table_by_rule(both):
    names = {path.name for path in (both.path / "circuits").iterdir()}
    assert {"induction--eap--greedy-0.0275.json", "induction--acdc--kept.json"} <= names
    assert len(names) == len(both.faithfulness())


def test_a_finished_run_of_several_rules_has_nothing_left_to_do(both, monkeypatch):
    monkeypatch.setattr("pipeline.workers.execute.values_of", None)
    again = discover(RunConfig.resumed(both.path), local=True, quiet=True)
    assert again.faithfulness().equals(open_run(both.path).faithfulness())


def test_one_rule_in_a_list_is_that_rule_alone(tmp_path):
    one, listed = (config(tmp_path, rank) for rank in ("signed", ["signed"]))
    assert one == listed
    assert one.to_yaml() == listed.to_yaml()
    two = config(tmp_path, ["signed", "greedy"])
    assert RunConfig.from_mapping(two.to_mapping()) == two
    assert make_plan(one).run_key == make_plan(two).run_key


@pytest.mark.parametrize(
    ("rank", "words"),
    [
        ("absolut", "there is no rule 'absolut'; did you mean 'absolute'?"),
        (["absolute", "sined"], "there is no rule 'sined'; did you mean 'signed'?"),
        ([], "name a rule, or several"),
        (["signed", "signed"], "signed is there twice"),
        (3, "there is no rule 3"),
    ],
)
def test_what_is_no_rule_is_one_line(tmp_path, rank, words):
    with pytest.raises(ConfigError) as error:
        RunConfig.from_mapping(toy_mapping(tmp_path, evaluate={"rank": rank}))
    assert f"evaluate.rank: {words}" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_a_rule_that_was_added_is_what_it_is_from_the_beginning(both, added):
    run, *_ = added
    for file in ("faithfulness.parquet", "evaluations.parquet"):
        mine, theirs = (pd.read_parquet(one.path / file) for one in (run, both))
        pd.testing.assert_frame_equal(mine, theirs, rtol=1e-5, atol=1e-5)
