"""Intervals hold as often as they say, and tests reject what is true no more often than their level."""

import numpy as np
import pytest
from scipy.stats import binom

from pipeline.core.graph import Graph
from tests.coverage import DRAWS, LEVELS, coverage, p_rows

SMALL = Graph(n_layers=5, n_heads=3, n_kv_heads=3)


@pytest.mark.parametrize("n", [4, 16])
def test_the_interval_of_an_edge_holds_its_mean_in_95_of_100_draws_of_few_prompts(n):
    student, normal, drawn = coverage(*DRAWS["normal"], n, repeats=4, graph=SMALL)
    assert 0.93 < student < 0.97  # some 2,500 means: a standard error is .004
    assert normal < student
    assert np.isnan(drawn) if n == 4 else 0.85 < drawn < 0.95


@pytest.mark.slow
def test_what_is_true_is_rejected_no_more_often_than_the_level_in_500_simulations():
    rows = {name: (shares, uniform) for name, shares, uniform in p_rows(500)}
    assert len(rows) == 6
    for name, (shares, uniform) in rows.items():
        for level, share in zip(LEVELS, shares, strict=True):
            # 500 draws of a valid test: more than this has a probability under 1e-4
            assert share <= binom.ppf(1 - 1e-4, 500, level) / 500, (name, level)
        assert uniform > 1e-3 or name.startswith("equivalence"), name
