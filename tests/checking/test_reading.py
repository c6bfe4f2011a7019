"""Prompts that cannot be used are counted by what is wrong with them, and do not keep the others from being tried."""

import pytest

from pipeline.checking.reading import Refused, reason, usable
from pipeline.core.prompts import PromptPair
from pipeline.models.toy import toy_path

CLEAN = "Then, Sarah and David went to the store. David gave a ring to"
OTHER = "Then, Sarah and David went to the store. Sarah gave a ring to"


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(toy_path("toy:trained"))


def pair(index, clean=CLEAN, corrupted=OTHER, answers=(" Sarah",), wrong=(" David",), **more):
    return PromptPair(clean, corrupted, answers, wrong, source=f"pairs.jsonl:{index + 1}", **more)


def test_one_reason_for_all_prompts_of_one_kind_of_fault(tokenizer):
    pairs = [
        pair(0),
        pair(1, answers=(" Sarah David",)),
        pair(2, corrupted=f"{OTHER} the"),
        pair(3, answers=(" David Sarah store",)),
        pair(4, corrupted=f"{OTHER} the store"),
        pair(5, answers=(" Zzyzx",)),
        pair(6, wrong=()),
        pair(7),
    ]
    refused = Refused()
    tokens = list(usable(pairs, tokenizer, refused, needs_wrong=True))
    assert [token.prompt_id for token in tokens] == [0, 7]
    found = {row["reason"]: row for row in refused.to_list()}
    assert {why: row["prompts"] for why, row in found.items()} == {
        "the answer … is n tokens after this prompt": 2,
        "clean has n tokens and corrupted n": 2,
        "the tokenizer does not know the answer …": 1,
        "the metric compares with wrong answers": 1,
    }
    assert found["clean has n tokens and corrupted n"]["first"].startswith(
        "pairs.jsonl:3: clean has 15 tokens"
    )
    assert refused.total == 6


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (
            """a.jsonl:3: the answer " it's" is 2 tokens after this prompt, '...to' (Ġit 's); write ' it'""",
            "the answer … is n tokens after this prompt",
        ),
        (
            "ioi prompt 4: 17,000 tokens, but the model's context holds 64; shorten it",
            "n tokens, but the model's context holds n",
        ),
        ("no place at all", "no place at all"),
    ],
)
def test_a_reason_holds_no_words_and_numbers_of_one_prompt(message, why):
    assert reason(message) == why
