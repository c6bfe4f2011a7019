"""Changes that many receivers read: added to all at once, they give what each would have got alone, to the bit."""

import pytest
import torch

from pipeline.engine import trial as module
from pipeline.engine.trial import Trial, compact, lanes_of


@pytest.mark.parametrize("at_once", [1, 2, 100])
def test_inputs_are_to_the_bit_what_one_addition_after_the_other_gives(monkeypatch, at_once):
    one = 3 * 2 * 1 * 5 * 4  # variants, prompts, rows, width, bytes
    monkeypatch.setattr(module, "_LANE_BYTES", at_once * one)
    rng = torch.Generator().manual_seed(0)
    inputs = {receiver: torch.randn(2, 1, 5, generator=rng) for receiver in (3, 4, 7, 9)}
    trial = Trial(0, 3, lanes_of(inputs, [3, 4, 7, 9], 3))
    expected = {}
    for readers in ([4], [3, 9], [3, 4, 7], [7, 9], [3, 4, 7, 9]):
        change = torch.randn(3, 2, 1, 5, generator=rng)
        for index, lane in enumerate(trial.lanes):
            if here := [receiver for receiver in readers if receiver in lane.place]:
                trial.add(index, here, change)
        expected |= {receiver: expected.get(receiver, inputs[receiver]) + change for receiver in readers}
        assert trial.inputs.keys() == expected.keys()
        assert all(torch.equal(trial.inputs[receiver], x) for receiver, x in expected.items())


def test_a_small_part_of_a_large_tensor_does_not_keep_all_of_it():
    whole, own = torch.zeros(100, 4), torch.ones(4)
    found = compact({0: whole[7], 1: own})
    assert {key: x.untyped_storage().nbytes() for key, x in found.items()} == {0: 16, 1: 16}
    assert compact({0: whole, 1: own})[0] is whole
