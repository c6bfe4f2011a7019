"""What is said of a circuit: yes, no, undecided or not known, by numbers and their intervals."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.selection import RULES, Rank
from pipeline.evaluation.verdict import Bars, cards, verdict

GOOD = {
    ("sufficiency", "circuit", "faithfulness"): (0.98, 0.9, 1.1),
    ("sufficiency", "circuit", "discovery"): (1.0, 0.88, 1.12),
    ("necessity", "complement", "faithfulness"): (0.02, -0.05, 0.1),
    ("minimality", "circuit", "costly"): (0.95, 0.92, 0.97),
    ("stability", "circuit", "jaccard"): (0.9, 0.85, 0.93),
    ("chance", "circuit", "faithfulness"): (0.98, 0.9, 1.1),
}
ALONE = {("stability", "circuit", "null"): 0.01, ("chance", "random", "p95"): 0.2}


def numbers(**changed):
    """The numbers of a good circuit, with those of some evaluations changed."""
    found = dict(ALONE)
    for (evaluation, circuit, quantity), values in GOOD.items():
        name = f"{evaluation}_{quantity}"
        for end, value in zip(("", "_low", "_high"), changed.get(name, values), strict=True):
            found[evaluation, circuit, quantity + end] = value
    return found


def answers(found, **options):
    return {one.question: one.answer for one in verdict(found, **{"held_out": True, **options})}


def test_a_good_circuit_is_one_in_every_question():
    assert set(answers(numbers()).values()) == {"yes"}


@pytest.mark.parametrize(
    ("changed", "question", "answer"),
    [
        ({"sufficiency_faithfulness": (0.8, 0.7, 0.9)}, "sufficient", "undecided"),
        ({"sufficiency_faithfulness": (1.6, 1.5, 1.7)}, "sufficient", "no"),
        ({"sufficiency_faithfulness": (1.6, 1.5, 1.7)}, "held out", "no"),
        ({"necessity_faithfulness": (0.5, 0.4, 0.6)}, "necessary", "no"),
        ({"necessity_faithfulness": (0.1, 0.0, 0.2)}, "necessary", "undecided"),
        ({"minimality_costly": (0.5, 0.4, 0.6)}, "minimal", "no"),
        ({"stability_jaccard": (0.7, 0.65, 0.79)}, "stable", "no"),
        ({"chance_faithfulness": (0.1, 0.0, 0.19)}, "above chance", "no"),
        ({"chance_faithfulness": (0.3, 0.1, 0.5)}, "above chance", "undecided"),
        ({"sufficiency_faithfulness": (0.9, None, None)}, "sufficient", "not known"),
        ({"stability_jaccard": (None, None, None)}, "stable", "not known"),
    ],
)
def test_an_answer_is_yes_or_no_where_the_whole_interval_is_on_one_side(changed, question, answer):
    assert answers(numbers(**changed))[question] == answer


def test_overlap_must_be_three_times_that_of_chance_too():
    found = numbers(stability_jaccard=(0.9, 0.86, 0.93)) | {("stability", "circuit", "null"): 0.3}
    assert answers(found)["stable"] == "undecided"  # .9 is the bar
    assert answers(found | {("stability", "circuit", "null"): 0.4})["stable"] == "no"


def test_prompts_that_chose_the_circuit_say_nothing_of_held_out_ones():
    assert answers(numbers(), held_out=False)["held out"] == "not known"


def test_nothing_found_is_nothing_known():
    assert set(answers({}).values()) == {"not known"}


@given(
    value=st.floats(-3, 3),
    below=st.floats(0, 2),
    above=st.floats(0, 2),
    bar=st.floats(-2, 2),
)
def test_yes_and_no_never_hold_the_bar(value, below, above, bar):
    found = numbers(necessity_faithfulness=(value, value - below, value + above))
    answer = answers(found, bars=Bars(necessary=bar))["necessary"]
    holds = value - below <= bar < value + above
    assert (answer == "undecided") == holds
    assert (answer == "yes") == (value + above <= bar)


def test_cards_are_of_the_task_that_was_judged():
    rows = [
        {"task": "ioi-held-out", "method": "eap", "evaluation": e, "circuit": c, "quantity": q, "value": v}
        for (e, c, q), v in numbers().items()
    ]
    other = {
        "task": "ioi",
        "method": "eap",
        "evaluation": "auroc",
        "circuit": None,
        "quantity": "auroc",
        "value": 1.0,
    }
    (card,) = cards([*rows, other], {"ioi-held-out": "ioi", "ioi": "ioi"})
    assert (card["task"], card["prompts"], card["method"]) == ("ioi", "ioi-held-out", "eap")
    assert {one["answer"] for one in card["judgements"]} == {"yes"}


def test_the_rules_of_a_config_are_the_rules_there_are():
    assert set(Rank.__args__) == set(RULES)
