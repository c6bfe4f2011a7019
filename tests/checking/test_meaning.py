"""What facts mean: whether the model has a behaviour, and what to change."""

import pytest

from pipeline.checking.meaning import verdict
from pipeline.core.intervals import wilson_95

N = 200


def facts(greedy=1.0, accuracy=1.0, n=N, still=0.0, clean=5.0, corrupted=-5.0, **changes):
    found = {
        "prompts": n,
        "duplicates": 0,
        "padding": 0.05,
        "unchanged": 0.0,
        "refused": [],
        "still_right": still,
        "instead": [{"text": " the", "token": 3, "prompts": 7}],
        "metrics": {
            "logit_diff": {"clean": {"mean": clean, "std": 1.0}, "corrupted": {"mean": corrupted, "std": 1.0}}
        },
    }
    for name, value in (("greedy", greedy), ("accuracy", accuracy)):
        low, high = (None, None) if value is None else wilson_95(round(value * n), n)
        found |= {name: value, f"{name}_low": low, f"{name}_high": high}
    return found | changes


@pytest.mark.parametrize(
    ("greedy", "accuracy", "n", "word"),
    [
        (1.0, 1.0, 200, "has"),
        (0.9, 0.99, 200, "has"),
        (1.0, None, 200, "has"),
        (0.65, 0.98, 200, "prefers"),
        (0.38, 0.7, 200, "lacks"),
        (0.41, None, 200, "lacks"),
        (0.95, 0.6, 200, "lacks"),
        (1.0, 1.0, 8, "unsure"),
    ],
)
def test_a_model_has_what_it_says_first_in_nine_of_ten_prompts(greedy, accuracy, n, word):
    found, words = verdict(facts(greedy, accuracy, n))
    assert found == word
    assert ("does not have this behaviour" in words[0]) == (word in ("prefers", "lacks"))
    if word in ("prefers", "lacks"):
        assert "' the' (7)" in words[0]


def test_a_corruption_that_takes_nothing_away_is_said_and_one_that_the_metric_sees_is_not():
    assert any("takes nothing away" in one for one in verdict(facts(still=0.9, corrupted=4.8))[1])
    assert not any("takes nothing away" in one for one in verdict(facts(still=0.9, corrupted=1.0))[1])
    assert not any("takes nothing away" in one for one in verdict(facts(still=0.1, corrupted=4.8))[1])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"unchanged": 1.0}, "clean and corrupted are the same tokens in every prompt"),
        ({"unchanged": 0.1}, "changes nothing in 10% of the prompts; leave these out"),
        ({"duplicates": 90}, "90 of 200 prompts are others again"),
        ({"padding": 0.4}, "40% of the positions in batches are padding"),
        ({"n": 12}, "12 prompts are few"),
        (
            {"refused": [{"reason": "x", "prompts": 50, "first": "a.jsonl:3: x; do y"}]},
            "50 of 250 prompts cannot be used, the first: a.jsonl:3: x; do y",
        ),
    ],
)
def test_what_is_wrong_with_the_prompts_is_said_with_the_mend(changes, said):
    assert any(said in one for one in verdict(facts(**changes))[1])
    assert not any(said in one for one in verdict(facts())[1])


def test_a_task_whose_every_prompt_is_refused_says_why():
    refused = [{"reason": "x", "prompts": 3, "first": "a.jsonl:3: x; do y"}]
    assert verdict(facts(n=0, greedy=None, accuracy=None, refused=refused)) == (
        "unused",
        ["no prompt can be used: a.jsonl:3: x; do y"],
    )
