"""How often the 95 % intervals of merged scores hold the true mean: many simulated runs of few prompts.

`pytest -m slow -s tests/store/run/test_coverage.py` prints the table that `flows/README.md` shows.
"""

import numpy as np
import pytest

from pipeline.store.run.bootstrap import FEWEST
from tests.coverage import DRAWS, coverage

PROMPTS = (2, 4, 16, 64)
SHOWN = ("normal", "skewed (log-normal)", "sparse (one prompt in ten)")


@pytest.fixture(scope="module")
def measured():
    found = {(name, n): coverage(*DRAWS[name], n) for name in SHOWN for n in PROMPTS}
    print("\n| scores | prompts | Student | normal, 1.96 | bootstrap |\n|---|---|---|---|---|")
    for (name, n), shares in found.items():
        print(f"| {name} | {n} | " + " | ".join(f"{share:.2f}" for share in shares) + " |")
    return found


@pytest.mark.slow
def test_an_interval_of_normal_scores_holds_the_mean_in_95_of_100_runs_whatever_their_size(measured):
    for n in PROMPTS:
        assert measured["normal", n][0] == pytest.approx(
            0.95, abs=0.006
        )  # 16,340 means: four standard errors


@pytest.mark.slow
def test_what_is_said_of_few_prompts_is_so(measured):
    """The numbers of the table, to two digits; bounds, for streams of random numbers may change."""
    for (name, n), (student, normal, bootstrap) in measured.items():
        assert student >= normal
        assert np.isnan(bootstrap) == (n < FEWEST)
        assert (name, n) != ("normal", 2) or normal == pytest.approx(0.70, abs=0.01)
    assert measured["sparse (one prompt in ten)", 16][0] < 0.9
