"""The table of methods and rules: which runs it is made of, which circuit stands in a row, and that what is shown is
what is kept."""

import json

import pandas as pd
import pytest

from flows import methods_table
from flows.methods_rows import chosen, rows_of
from flows.methods_table import FACTS, PARTS, PROMPTS, RULES, TABLE, config_of, known, summary, table
from pipeline import discover
from tests.runs import toy_config


def of(*faithfulness):
    return pd.DataFrame({"n_edges": [4, 2, 1, 8], "faithfulness": [*faithfulness]})


def test_the_circuit_of_a_row_is_the_smallest_that_is_near_and_never_the_whole_graph():
    row, is_near = chosen(of(0.9, 1.14, 0.5, 1.0), 8)
    assert (row["n_edges"], is_near) == (2, True)
    row, is_near = chosen(of(0.7, 1.4, 0.5, 1.0), 8)
    assert (row["n_edges"], is_near) == (4, False)
    row, is_near = chosen(of(0.7, float("nan"), 0.5, 1.0), 8)
    assert (row["n_edges"], is_near) == (4, False)


def test_every_behaviour_that_the_model_has_can_be_run(tmp_path):
    assert len(known()) >= 9
    for name in known():
        for part in PARTS:
            config = config_of(name, part, str(tmp_path))
            assert [*config.task_ids] == [name, f"{name}-held-out"]
            assert config.task_ids[name].model_dump()["count"] == PROMPTS
            assert config.evaluate.ranks == RULES
            assert config.name == f"methods-{name}{part}"


def test_what_is_shown_is_what_is_kept():
    rows = json.loads(FACTS.read_text())
    there = {row["behaviour"] for row in rows}
    assert there
    assert there <= {*known()}
    for name in there:
        assert [(row["method"], row["rule"]) for row in rows if row["behaviour"] == name] == [
            *((method, rule) for method in ("eap", "eap_ig") for rule in RULES),
            *(
                [("acdc-0.1", "kept")]
                if any(r["rule"] == "kept" for r in rows if r["behaviour"] == name)
                else []
            ),
        ]
    assert table(rows) == TABLE.read_text()


def test_the_summary_counts_what_was_found_and_holds():
    row = {"method": "eap", "rule": "signed", "share": 0.01, "cpr": 1.0, "cmd": None, "jaccard": None}
    rows = [
        row | {"near": True, "held_out": 0.9},
        row | {"near": True, "held_out": 0.5, "share": 0.03},
        row | {"near": False, "held_out": 1.0, "share": 0.5, "cpr": 2.0},
    ]
    assert summary(rows)[2] == "| eap | signed | 3 | 2 | 1 | 2 % | 0.10 | 1.33 | – | – |"


def test_what_is_named_wrongly_is_one_line(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("sys.argv", ["methods_table", "no_such_behaviour", "--runs", str(tmp_path)])
    assert methods_table.main() == 1
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.slow
def test_a_row_says_of_a_run_what_its_tables_say(tmp_path):
    config = toy_config(
        tmp_path,
        tasks=[{"name": "induction", "count": 8, "held_out": 8, "as": "induction"}],
        evaluate={"edge_fractions": [0.0275, 0.05, 1.0], "rank": ["absolute", "greedy"]},
        store={"prompt_scores": ["eap"]},
    )
    run = discover(config, local=True, quiet=True)
    spent = {"induction/eap/0": 1.0, "induction/eap/1": 2.0, "induction/evaluation=faithfulness/0": 4.0}
    rows = list(rows_of(run, "induction", spent))
    assert [(row["method"], row["rule"]) for row in rows] == [
        ("eap", "absolute"),
        ("eap", "greedy"),
        ("acdc", "kept"),
    ]
    frame = run.faithfulness()
    for row in rows[:2]:
        mine = frame[(frame["method"] == "eap") & (frame["rank"] == row["rule"]) & (frame["n_edges"] == 7)]
        by_task = mine.set_index("task")["faithfulness"]
        assert (row["n_edges"], row["near"]) == (7, True)
        assert row["faithfulness"] == pytest.approx(by_task["induction"], abs=1e-9)
        assert row["held_out"] == pytest.approx(by_task["induction-held-out"], abs=1e-9)
        assert row["gap"] == pytest.approx(row["held_out"] - row["faithfulness"])
        assert row["held_out_low"] <= row["held_out"] <= row["held_out_high"]
        assert 0 <= row["null"] < row["jaccard"] <= 1
        assert (row["cpu_seconds"], row["evaluation_cpu_seconds"]) == (3.0, 4.0)
        assert row["cpr"] is None, "these are not the ten sizes"
    assert rows[2]["n_edges"] == run.circuit("acdc", "induction").n_edges
    assert rows[2]["logit_diff"] == pytest.approx([1, 1], abs=1e-4)
    assert rows[2]["jaccard"] is None
