"""The table of circuits that are known: its numbers against pairs counted one by one, and the models in it."""

import json

import numpy as np
import pytest

from flows import truth_table
from flows.truth_table import FACTS, METHODS, PLANTED, known_model, rows_of, table

COMPILED = ("hist", "prevtoken", "reverse", "xproportion")
# Gradients of hard attention: what eap and eap_ig have for an AUROC where it is not 1
LESS = {("hist", "eap"): 0.875, ("hist", "eap_ig"): 0.8125}


@pytest.fixture(scope="module", params=["planted", *COMPILED])
def known(request):
    place = PLANTED
    if request.param != "planted":
        place = str(request.getfixturevalue("shared_data") / "models" / f"tracr-{request.param}")
    model = known_model(place)
    return request.param, model, list(rows_of(model))


def counted(size, truth):
    """Of all pairs of a true edge and another, the share in which the true one is larger; ties count one half."""
    pairs = [(a, b) for a in size[truth] for b in size[~truth]]
    return float(np.mean([1.0 if a > b else 0.5 if a == b else 0.0 for a, b in pairs]))


@pytest.mark.slow
def test_acdc_and_edge_patching_find_what_matters_and_nothing_else(known):
    name, _, found = known
    rows = {row["method"]: row for row in found}
    assert [*rows] == [method.name for method in METHODS]
    for method in ("acdc", "edge_patching"):
        row = rows[method]
        assert (row["auroc"], row["precision"], row["recall"]) == (1, 1, 1), method
        assert all(value == pytest.approx(1, abs=1e-6) for value in row["faithfulness"].values()), method
    for method in ("eap", "eap_ig"):
        assert rows[method]["auroc"] == LESS.get((name, method), 1)
    assert {row["recall"] == 1 for row in rows.values()} == ({True, False} if name == "hist" else {True})


@pytest.mark.slow
def test_the_numbers_are_those_of_pairs_counted_one_by_one(known):
    _, model, rows = known
    for method, row in zip(METHODS, rows, strict=True):
        size = np.abs(method.score(model.model, [model.found_on], metric="logit_diff").score)
        size = np.nan_to_num(size, nan=-1.0)
        assert row["auroc"] == pytest.approx(counted(size, model.truth), abs=1e-12)
        assert row["program_auroc"] == pytest.approx(counted(size, model.program), abs=1e-12)


@pytest.mark.slow
def test_the_table_of_the_package_is_of_these_models(known):
    name, _, rows = known
    committed = [
        row for row in json.loads(FACTS.read_text()) if row["model"].removeprefix("tracr-").endswith(name)
    ]
    for there, now in zip(committed, rows, strict=True):
        for key in ("edges", "true_edges", "method", "auroc", "precision", "recall", "faithfulness"):
            assert there[key] == pytest.approx(now[key], abs=1e-3), key


def test_a_table_of_rows_says_every_model(monkeypatch, tmp_path, capsys):
    row = json.loads(FACTS.read_text())[0]
    monkeypatch.setattr(truth_table, "FACTS", tmp_path / "facts.json")
    monkeypatch.setattr(truth_table, "TABLE", tmp_path / "facts.md")
    monkeypatch.setattr(truth_table, "known_model", lambda place: place)
    monkeypatch.setattr(truth_table, "rows_of", lambda place: [{**row, "model": place}])
    monkeypatch.setattr("sys.argv", ["truth_table", "somewhere/"])
    assert truth_table.main() == 0
    assert [row["model"] for row in json.loads((tmp_path / "facts.json").read_text())] == [
        PLANTED,
        "somewhere",
    ]
    assert "| somewhere |" in (tmp_path / "facts.md").read_text()
    assert table(json.loads(FACTS.read_text())) == FACTS.with_suffix(".md").read_text()
    assert "facts.md" in capsys.readouterr().out
