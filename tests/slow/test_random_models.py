"""Every method and every circuit against the oracles on models that are drawn at random, in float64.

One number draws a model, its prompts and a question: `python -m tests.random_models NUMBER` does it again.
"""

import pytest

from tests.random_models import ALLOWED, differences, drawn

pytestmark = pytest.mark.slow


def assert_agreed(number):
    drawing = drawn(number)
    try:
        found = differences(drawing)
    except Exception as error:
        raise AssertionError(f"python -m tests.random_models {number}: {drawing}") from error
    wrong = {name: error for name, error in found.items() if error > ALLOWED}
    assert not wrong, f"python -m tests.random_models {number}: {wrong}, {drawing}"


@pytest.mark.parametrize("number", range(0, 200, 10))
def test_a_tenth_of_the_random_models_agrees_with_the_oracles(number):
    assert_agreed(number)


@pytest.mark.long
@pytest.mark.parametrize("number", [n for n in range(200) if n % 10])
def test_random_models_agree_with_the_oracles(number):
    assert_agreed(number)


def test_a_number_draws_the_same_again():
    assert drawn(7) == drawn(7)
    assert drawn(7) != drawn(28)
