"""How alike circuits are: by hand, and of a run's own methods."""

import json
from itertools import combinations

import numpy as np
import pytest

from flows.cli import main
from pipeline import discover
from pipeline.core.errors import CircuitsError
from pipeline.core.graph import Graph
from pipeline.core.scores import EdgeScores
from pipeline.report.compared import alike, compared, shared
from pipeline.store.run.opened import Run
from tests.runs import toy_config

GRAPH = Graph(n_layers=1, n_heads=1, n_kv_heads=1)  # 8 edges


def scores(*values, kept=None):
    n = np.full(8, 2)
    return EdgeScores(GRAPH, np.asarray(values, dtype=float), np.zeros(8), n, kept=kept)


def test_scores_in_one_order_are_correlated_whatever_their_sizes():
    one, other = scores(1, 2, 3, 4, 5, 6, 7, -8), scores(1, 4, 9, 16, 25, 36, 49, -64)
    found = alike(one, other, (0.25,))
    assert found["spearman"] == pytest.approx(1)
    (overlap,) = found["overlaps"]
    assert overlap.pop("rank") == "absolute"
    assert overlap == shared(*(np.asarray([False] * 6 + [True] * 2),) * 2)
    assert alike(one, scores(*([1] * 8)), (0.25,))["spearman"] is None  # no spread, no rank
    assert found["kept"] is None


def test_what_chance_has_in_common_is_counted_over_all_sets():
    """Every pair of sets of 3 and 2 of 8 edges: the mean of what they share, and how often they share so much."""
    one = np.asarray([True] * 3 + [False] * 5)
    other = np.asarray([True, False, False, True, False, False, False, False])
    commons = [len({0, 1, 2} & set(drawn)) for drawn in combinations(range(8), 2)]
    found = shared(one, other)
    assert (found["n_edges"], found["other_edges"], found["common"]) == (3, 2, 1)
    assert found["jaccard"] == pytest.approx(1 / 4)
    expected = np.mean(commons)
    assert found["null"] == pytest.approx(expected / (5 - expected))
    assert found["p"] == pytest.approx(np.mean([common >= 1 for common in commons]))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return discover(toy_config(tmp_path_factory.mktemp("compared")), local=True, quiet=True)


def test_a_run_beside_itself_has_a_row_per_pair_of_methods(run):
    rows = compared(run)
    scored = [method for method in run.methods if run.level(method) == "edge"]
    assert len(rows) == len(run.tasks) * len(scored) * (len(run.tasks) * len(scored) - 1) // 2
    both = compared(run, run, task=run.tasks[0], method=scored[0])
    assert both[0]["spearman"] == pytest.approx(1)
    assert all(one["jaccard"] == 1 for one in both[0]["overlaps"])


def test_graphs_of_two_shapes_are_one_line(run):
    class Elsewhere(Run):
        graph = GRAPH

    with pytest.raises(CircuitsError, match="their edges are not the same"):
        compared(run, Elsewhere(run.directory))


def test_the_verb_prints_rows_and_json(run, capsys):
    assert main(["compare", str(run.path)]) == 0
    assert "rank correlation" in capsys.readouterr().out
    assert main(["compare", str(run.path), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["method"], row["other_method"], row["kept"]) == ("eap", "acdc", None)
