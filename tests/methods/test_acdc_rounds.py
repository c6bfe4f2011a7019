"""How often a search asks: guesses change that, and nothing else."""

import numpy as np
import pytest

from pipeline.methods import Acdc
from pipeline.methods.search import Search
from tests.benchmarks.acdc import small_model
from tests.benchmarks.ops import counted


@pytest.fixture(scope="module")
def trained():
    return small_model("toy:trained", {"name": "induction", "count": 8})


def test_a_head_is_guessed_by_the_one_before_it(trained, monkeypatch):
    model, batch = trained
    found = Acdc(threshold=0.01).score(model, [batch])
    monkeypatch.setattr(Search, "_hints", lambda *_: {})
    unaided = Acdc(threshold=0.01).score(model, [batch])
    np.testing.assert_array_equal(found.kept, unaided.kept)
    np.testing.assert_allclose(found.score, unaided.score, rtol=1e-4, atol=1e-6)
    assert found.facts["rounds"] <= 34 < unaided.facts["rounds"]
    assert found.facts["evaluations"] < unaided.facts["evaluations"]


def test_a_tested_edge_of_a_small_model_takes_few_operations(trained):
    model, batch = trained
    found = []
    operations, transfers = counted(lambda: found.append(Acdc(threshold=0.01).score(model, [batch]).facts))
    assert operations.total() <= 20 * found[0]["tests"]
    assert transfers <= found[0]["rounds"] + 3  # and those of the recorded runs
