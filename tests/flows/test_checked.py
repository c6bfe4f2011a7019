"""`circuits check` says whether a model has a config's behaviours; `plan` says what the tokens alone tell."""

import json

import pytest

from flows import cli

CLEAN = "Then, Sarah and David went to the store. David gave a ring to"
OTHER = "Then, Sarah and David went to the store. Sarah gave a ring to"


def row(clean=CLEAN, corrupted=OTHER, answers=(" Sarah",), wrong_answers=(" David",)):
    return {"clean": clean, "corrupted": corrupted, "answers": answers, "wrong_answers": wrong_answers}


@pytest.fixture
def config(tmp_path):
    """A generated task, and a file in which one pair is right, one unchanged, and two cannot be used."""
    rows = [row(), row(corrupted=CLEAN), row(answers=(" Sarah David",)), row(corrupted=f"{OTHER} the")]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    path = tmp_path / "names.yaml"
    path.write_text(
        "name: names\nmodel: toy:trained\nmethods: [eap]\n"
        f"tasks: [{{name: induction, count: 40}}, {{name: file, path: {tmp_path / 'pairs.jsonl'}}}]\n"
    )
    return path


def test_check_prints_what_the_model_does_and_the_first_pair_with_its_answers_as_they_decode(config, capsys):
    assert cli.main(["check", str(config)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "induction: the model has this behaviour: it says the answer first in 100%" in said
    assert "pairs: 2 of 4 prompts cannot be used, the first: pairs.jsonl:3: the answer ' Sarah David'" in said
    assert "pairs: the corruption changes nothing in 50% of the prompts" in said
    assert "gave|a|ring|to -> 'Sarah', not 'David'" in said
    assert "|.|[David]|gave" in said


def test_check_as_json_has_a_row_per_task(config, capsys):
    assert cli.main(["check", str(config), "--json", "--prompts", "10"]) == 0
    tasks = json.loads(capsys.readouterr().out)["tasks"]
    assert {id_: one["prompts"] for id_, one in tasks.items()} == {"induction": 10, "pairs": 2}
    assert tasks["induction"]["accuracy"] == tasks["induction"]["greedy"] == 1.0
    assert 0.7 < tasks["induction"]["accuracy_low"] < 0.75
    assert tasks["pairs"]["unchanged"] == 0.5
    assert [one["prompts"] for one in tasks["pairs"]["refused"]] == [1, 1]
    assert tasks["pairs"]["verdict"] == "unsure"


def test_a_task_of_which_no_prompt_can_be_used_has_no_accuracy_and_ends_with_an_error(config, capsys):
    (config.parent / "pairs.jsonl").write_text(json.dumps(row(answers=(" Zzyzx",))))
    assert cli.main(["check", str(config), "--json"]) == 1
    tasks = json.loads(capsys.readouterr().out)["tasks"]
    found = tasks["pairs"]
    assert (found["verdict"], found["accuracy"], found["prompts"]) == ("unused", None, 0)
    assert tasks["induction"]["accuracy"] == 1.0
    (config.parent / "pairs.jsonl").unlink()
    assert cli.main(["check", str(config)]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "pairs: no prompt can be used:" in said
    assert "no such file; check the path" in said


def test_plan_shows_what_the_tokens_tell(config, capsys):
    (config.parent / "pairs.jsonl").write_text(json.dumps(row()))
    assert cli.main(["plan", str(config), "--json"]) == 0
    check = json.loads(capsys.readouterr().out)["check"]
    assert check["pairs"]["first"]["answers"] == ["Sarah"]
    assert check["induction"]["unchanged"] == 0.0
    assert cli.main(["plan", str(config)]) == 0
    assert "gave|a|ring|to -> 'Sarah', not 'David'" in " ".join(capsys.readouterr().out.split())
