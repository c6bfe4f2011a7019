"""`make behaviours` writes one table of what the model does, whatever behaviours the package knows."""

import json

import pytest

from flows import behaviours
from pipeline.tasks import TASKS


@pytest.fixture
def small(tmp_path, monkeypatch):
    """The table of a bundled model, on few prompts, in a folder of its own."""
    monkeypatch.setattr(behaviours, "FOLDER", "toy:trained")
    monkeypatch.setattr(behaviours, "COUNT", 40)
    monkeypatch.setattr(behaviours, "TABLE", tmp_path / "table.md")
    monkeypatch.setattr(behaviours, "FACTS", tmp_path / "table.json")

    def write(*names):
        monkeypatch.setattr("sys.argv", ["behaviours", *names])
        return behaviours.main()

    return write


def test_the_table_has_a_row_per_behaviour_and_keeps_those_that_are_not_tried_again(small, tmp_path, capsys):
    assert small("induction") == 0
    first = json.loads((tmp_path / "table.json").read_text())
    assert first["induction"]["greedy"] == 1.0
    assert first["induction"]["greedy_low"] == 0.9124  # a few digits, the same on every machine
    assert small("ioi") == 0
    both = json.loads((tmp_path / "table.json").read_text())
    assert both["induction"] == first["induction"]
    said = (tmp_path / "table.md").read_text()
    assert "| induction | 40 | 40 | 1.000 [0.912, 1.000] | 1.000 [0.912, 1.000] |" in said
    assert "It has 2 of 2." in said
    assert "4 bits a weight" in said
    capsys.readouterr()


def test_every_task_that_writes_prompts_is_tried():
    names = {cls.model_fields["name"].default for cls in TASKS} - {"file"}
    assert set(behaviours.known()) == names | set(behaviours.MORE)
    assert set(behaviours.config_of(behaviours.known()).task_ids) == set(behaviours.known())


def test_a_name_that_is_none_is_one_line(small, capsys):
    assert small("inductoin") == 1
    assert capsys.readouterr().err.count("\n") == 1
