"""How often the interval of a faithfulness holds it, and when nothing is known."""

import numpy as np
import pytest

from pipeline.evaluation.ratio import faithfulness_over, ratio


def test_the_value_is_the_ratio_of_means():
    full, empty, circuit = np.asarray([3.0, 5.0]), np.asarray([1.0, 1.0]), np.asarray([2.0, 4.0])
    assert faithfulness_over(full, empty, circuit).value == pytest.approx(4 / 6)


def test_the_ends_are_those_that_a_test_of_the_differences_just_accepts():
    """Fieller's interval by its definition: |mean(u - r v)| / se = t at both ends."""
    rng = np.random.default_rng(1)
    below = rng.normal(4, 1, 9)
    above = 0.6 * below + rng.normal(0, 1, 9)
    found = ratio(above, below)
    for end in (found.low, found.high):
        rest = above - end * below
        assert abs(rest.mean()) / (rest.std(ddof=1) / 3) == pytest.approx(
            2.306004135, abs=1e-8
        )  # t of 8 degrees
    assert found.low < found.value < found.high


def test_nothing_is_known_of_a_ratio_whose_denominator_may_be_zero():
    found = ratio(np.asarray([1.0, 2.0, 1.5]), np.asarray([-1.0, 1.0, 0.2]))
    assert found.value is not None
    assert (found.low, found.high) == (None, None)
    assert ratio(np.ones(3), np.zeros(3)).value is None
    assert (ratio(np.ones(1), np.ones(1)).value, ratio(np.ones(1), np.ones(1)).low) == (1.0, None)


@pytest.mark.parametrize("n", [4, 8, 16, 64, 256])
def test_the_interval_holds_the_ratio_in_95_of_100_draws(n):
    rng = np.random.default_rng(n)
    draws, truth = 4000, 0.7
    held = 0
    for _ in range(draws):
        below = rng.normal(5.0, 1.5, n)
        above = truth * below + rng.normal(0, 2.0, n)
        found = ratio(above, below)
        held += found.low is None or found.low <= truth <= found.high  # unbounded: it holds every ratio
    assert 0.94 < held / draws < 0.96
