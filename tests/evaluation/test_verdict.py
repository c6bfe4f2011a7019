"""What is said of a circuit: yes, no, undecided or not known, by numbers and their intervals."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.selection import RULES, Rank
from pipeline.evaluation.ratio import ROUNDING, Ratio, less
from pipeline.evaluation.verdict import Bars, cards, verdict

GOOD = {
    ("sufficiency", "circuit", "faithfulness"): (0.98, 0.9, 1.1),
    ("sufficiency", "circuit", "discovery"): (1.0, 0.88, 1.12),
    ("necessity", "complement", "faithfulness"): (0.02, -0.05, 0.1),
    ("minimality", "circuit", "costly"): (0.95, 0.92, 0.97),
    ("stability", "circuit", "jaccard"): (0.9, 0.85, 0.93),
    ("chance", "circuit", "faithfulness"): (0.98, 0.9, 1.1),
    ("null_data", "null", "jaccard"): (0.4, 0.36, 0.44),
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
        ({"stability_jaccard": (None, None, None)}, "beyond null data", "not known"),
        ({"null_data_jaccard": (None, None, None)}, "beyond null data", "not known"),
        ({"null_data_jaccard": (0.58, 0.55, 0.61)}, "beyond null data", "undecided"),  # 1.5 x .58 is .87
        ({"null_data_jaccard": (0.7, 0.68, 0.72)}, "beyond null data", "no"),
    ],
)
def test_an_answer_is_yes_or_no_where_the_whole_interval_is_on_one_side(changed, question, answer):
    assert answers(numbers(**changed))[question] == answer


def test_overlap_must_be_three_times_that_of_chance_too():
    found = numbers(stability_jaccard=(0.9, 0.86, 0.93)) | {("stability", "circuit", "null"): 0.3}
    assert answers(found)["stable"] == "undecided"  # .9 is the bar
    assert answers(found | {("stability", "circuit", "null"): 0.4})["stable"] == "no"


def test_prompts_that_chose_the_circuit_say_nothing_of_held_out_ones():
    assert answers(numbers(), held_out=False)["held out"] == "not asked"


def test_where_nothing_has_looked_nothing_was_asked_and_there_is_no_number():
    for one in verdict({}, held_out=False):
        assert (one.answer, one.value, one.low, one.high) == ("not asked", None, None, None)


def test_stability_beyond_null_data_is_what_a_hand_counts():
    """.9 less 1.5 times .4 is .3; its ends are as far as the sides of right angles: (.05, 1.5 x .04) below, (.03, 1.5 x
    .04) above."""
    (one,) = (one for one in verdict(numbers(), held_out=True) if one.question == "beyond null data")
    assert one.value == pytest.approx(0.3)
    assert one.value - one.low == pytest.approx((0.05**2 + 0.06**2) ** 0.5)
    assert one.high - one.value == pytest.approx((0.03**2 + 0.06**2) ** 0.5)
    assert one.answer == "yes"
    changed = {
        answers(numbers(), bars=Bars(null_data=times))["beyond null data"] for times in (2.0, 2.2, 3.0)
    }
    assert changed == {"yes", "undecided", "no"}


def test_no_interval_of_one_number_is_none_of_a_difference():
    alone = less(Ratio(0.9, 0.8, 1.0), Ratio(0.4), 1.5)
    assert (alone.value, alone.low, alone.high) == (pytest.approx(0.3), None, None)
    assert less(Ratio(None), Ratio(0.4, 0.3, 0.5), 1.5) == Ratio(None)
    assert less(Ratio(0.75, 0.75, 0.75), Ratio(0.5, 0.5, 0.5), 1.0) == Ratio(0.25, 0.25, 0.25)


WITHOUT_WIDTH = [
    # where every prompt says the same, the ends of an interval are what float sums leave
    ("held out", {"sufficiency_faithfulness": [1 - 2e-15] * 3, "sufficiency_discovery": [1.0] * 3}, "yes"),
    ("held out", {"sufficiency_faithfulness": [1.0] * 3, "sufficiency_discovery": [1 - 3e-8] * 3}, "yes"),
    (
        "held out",
        {"sufficiency_faithfulness": (1, 1 - 2e-7, 1 + 2e-7), "sufficiency_discovery": [1.0] * 3},
        "yes",
    ),
    ("held out", {"sufficiency_faithfulness": [0.99] * 3, "sufficiency_discovery": [1.0] * 3}, "no"),
    (
        "held out",
        {"sufficiency_faithfulness": [1.0] * 3, "sufficiency_discovery": (1.0, None, None)},
        "not known",
    ),
    ("sufficient", {"sufficiency_faithfulness": [1 - 0.15000000000000002] * 3}, "yes"),
    ("sufficient", {"sufficiency_faithfulness": [1.1500000000000001] * 3}, "yes"),
    ("sufficient", {"sufficiency_faithfulness": [1.151] * 3}, "no"),
    ("necessary", {"necessity_faithfulness": [0.1 + 0.05000000000000001] * 3}, "yes"),
    ("necessary", {"necessity_faithfulness": [0.1502] * 3}, "no"),
    ("minimal", {"minimality_costly": [3 * 0.3] * 3}, "yes"),  # 0.8999999999999999: nine edges of ten
    ("minimal", {"minimality_costly": [899 / 1000] * 3}, "no"),
    ("stable", {"stability_jaccard": [sum([0.1] * 8)] * 3}, "yes"),  # 0.7999999999999999
    ("stable", {"stability_jaccard": [0.799] * 3}, "no"),
    ("above chance", {"chance_faithfulness": [0.2] * 3}, "no"),  # as high as chance is not above it
    ("above chance", {"chance_faithfulness": [0.2 + 2e-15] * 3}, "no"),
    ("above chance", {"chance_faithfulness": [0.21] * 3}, "yes"),
    ("beyond null data", {"stability_jaccard": [0.6] * 3, "null_data_jaccard": [0.1 + 0.3] * 3}, "yes"),
    ("beyond null data", {"stability_jaccard": [0.599] * 3, "null_data_jaccard": [0.4] * 3}, "no"),
]


@pytest.mark.parametrize(("question", "changed", "answer"), WITHOUT_WIDTH)
def test_rounding_alone_decides_nothing(question, changed, answer):
    assert answers(numbers(**changed))[question] == answer


@given(
    value=st.floats(-3, 3),
    below=st.floats(0, 2),
    above=st.floats(0, 2),
    bar=st.floats(-2, 2),
)
def test_yes_and_no_never_hold_the_bar(value, below, above, bar):
    found = numbers(necessity_faithfulness=(value, value - below, value + above))
    answer = answers(found, bars=Bars(necessary=bar))["necessary"]
    holds = value - below <= bar + ROUNDING < value + above
    assert (answer == "undecided") == holds
    assert (answer == "yes") == (value + above <= bar + ROUNDING)


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
