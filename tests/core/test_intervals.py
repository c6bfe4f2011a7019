import mpmath
import numpy as np
import pytest

from pipeline.core.intervals import quantile, t_95


@pytest.mark.parametrize(
    "degrees", [*range(1, 12), 15, 16, 30, 63, 99, 100, 500, 999, 1000, 1001, 1002, 5000, 10**6]
)
def test_quantiles_are_those_of_the_incomplete_beta_function(degrees):
    with mpmath.workdps(30):
        outside = mpmath.betainc(
            mpmath.mpf(degrees) / 2,
            0.5,
            0,
            degrees / (degrees + mpmath.mpf(quantile(degrees)) ** 2),
            regularized=True,
        )
        assert abs(outside - mpmath.mpf("0.05")) < 1e-14


@pytest.mark.parametrize(
    ("n", "printed"),
    [(2, 12.706), (3, 4.303), (5, 2.776), (11, 2.228), (31, 2.042), (61, 2.000), (121, 1.980)],
)
def test_quantiles_are_those_of_printed_tables(n, printed):
    assert round(float(t_95(np.array([n]))[0]), 3) == printed


def test_every_entry_has_its_own_and_below_two_prompts_there_is_none():
    reach = t_95(np.array([0, 2, 1, 3, 2]))
    assert np.isnan(reach[[0, 2]]).all()
    assert reach[[1, 4]].tolist() == [quantile(1)] * 2
    assert reach[3] == quantile(2)
    assert len(t_95(np.zeros(0, dtype=np.int64))) == 0
