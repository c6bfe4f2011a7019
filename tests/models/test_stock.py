"""Stock models are imported without what they have no use for, which others find as ever."""

import subprocess
import sys

import pytest

ASKED = """
import sys
import pipeline.engine.patchable
assert "scipy.optimize" not in sys.modules
import scipy.optimize
from transformers.loss import loss_for_object_detection as loss
costs = [[4, 1, 3], [2, 0, 5], [3, 2, 2]]
print(list(loss.linear_sum_assignment(costs)[1]), list(scipy.optimize.linear_sum_assignment(costs)[1]))
"""


@pytest.mark.slow
def test_an_engine_waits_for_no_scipy_and_whoever_wants_its_assignment_gets_it():
    words = [sys.executable, "-c", ASKED]
    said = subprocess.run(words, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    assert "1" in said.stdout
    assert len(set(said.stdout.replace("] [", "]|[").strip().split("|"))) == 1
