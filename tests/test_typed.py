"""What all tests run under refuses what an annotation does not say: types, and lengths of one name that differ."""

import numpy as np
import pytest

from pipeline.core.items import Item
from pipeline.core.scores import Moments, rank_order
from pipeline.store.place.exclusion import Rules, enter
from tests import typed
from tests.typed import unchecked

TWO, THREE = np.zeros(2), np.zeros(3)


def test_an_argument_of_another_type_or_with_other_axes_is_refused():
    for wrong in (np.zeros((2, 2)), np.zeros(2, int), "12"):
        with pytest.raises(TypeError):
            rank_order(wrong)
    with pytest.raises(TypeError):
        Moments.of(TWO)


def test_an_int_is_a_float_and_a_generated_init_is_checked():
    with pytest.raises(TypeError):
        Item("scores", "ioi", "eap", "0")
    assert Item("scores", "ioi", "eap", 0).shard == 0


def test_lengths_of_one_name_are_equal_within_a_signature_and_free_between_calls():
    assert (len(rank_order(TWO)), len(rank_order(THREE))) == (2, 3)
    with pytest.raises(TypeError, match="std"):
        Moments(np.zeros(2, int), TWO, THREE)


def test_a_generator_refuses_a_wrong_argument_when_it_is_made():
    with pytest.raises(TypeError):
        enter(0, Rules(fence=1.0, silence=2.0, looks=2))


def test_nothing_is_refused_where_it_is_switched_off():
    with unchecked():
        assert Item("scores", "ioi", "eap", 0.5).shard == 0.5
    with pytest.raises(TypeError):
        Item("scores", "ioi", "eap", 0.5)


def test_of_a_function_that_is_called_again_and_again_the_first_calls_of_a_test_are_checked():
    for _ in range(typed.CALLS):
        with pytest.raises(TypeError):
            Item("scores", "ioi", "eap", 0.5)
    assert Item("scores", "ioi", "eap", 0.5).shard == 0.5
    typed.begin()
    with pytest.raises(TypeError):
        Item("scores", "ioi", "eap", 0.5)
