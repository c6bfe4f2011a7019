import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import PromptError
from pipeline.core.prompts import PromptPair, TokenPair, bucket_by_length, check_pair


def token_pair(clean=(1, 2, 3), corrupted=(1, 5, 3), answers=(7,), wrong=(8,), prompt_id=4, source=""):
    pair = PromptPair(clean, corrupted, answers, wrong, source=source)
    return TokenPair(prompt_id, tuple(clean), tuple(corrupted), tuple(answers), tuple(wrong), pair)


def test_a_usable_pair_passes():
    check_pair(token_pair(), max_length=3, needs_wrong=True)
    check_pair(token_pair(wrong=()))


@pytest.mark.parametrize(
    ("pair", "limits", "message"),
    [
        (token_pair(clean=(), corrupted=()), {}, "the prompt is empty"),
        (token_pair(corrupted=(1, 2)), {}, "clean has 3 tokens and corrupted 2"),
        (token_pair(answers=()), {}, "no answers"),
        (token_pair(wrong=()), {"needs_wrong": True}, "wrong_answers"),
        (token_pair(answers=(7, 8)), {}, "token 8 is both"),
        (token_pair(), {"max_length": 2}, "3 tokens, but the model's context holds 2"),
    ],
)
def test_an_unusable_pair_is_refused_with_what_is_wrong(pair, limits, message):
    with pytest.raises(PromptError, match=message):
        check_pair(pair, **limits)


def test_the_refusal_names_file_and_line_or_else_the_prompt():
    with pytest.raises(PromptError, match=r"^pairs\.jsonl:12: "):
        check_pair(token_pair(answers=(), source="pairs.jsonl:12"))
    with pytest.raises(PromptError, match=r"^prompt 4: "):
        check_pair(token_pair(answers=()))


@given(st.lists(st.integers(1, 9), max_size=30), st.integers(1, 7))
def test_buckets_hold_every_pair_once_by_length_and_are_never_too_large(lengths, batch_size):
    pairs = [
        token_pair(clean=(1,) * n, corrupted=(2,) * n, answers=(3,), wrong=(), prompt_id=i)
        for i, n in enumerate(lengths)
    ]

    buckets = bucket_by_length(pairs, batch_size)

    flat = [pair for bucket in buckets for pair in bucket]
    assert sorted(pair.prompt_id for pair in flat) == list(range(len(lengths)))
    assert [pair.length for pair in flat] == sorted(lengths)
    assert all(1 <= len(bucket) <= batch_size for bucket in buckets)
    assert len(buckets) == -(-len(lengths) // batch_size)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=20), st.randoms(use_true_random=False))
def test_buckets_do_not_depend_on_the_order_in_which_pairs_arrive(lengths, random):
    pairs = [
        token_pair(clean=(1,) * n, corrupted=(2,) * n, answers=(3,), wrong=(), prompt_id=i)
        for i, n in enumerate(lengths)
    ]
    shuffled = list(pairs)
    random.shuffle(shuffled)

    assert bucket_by_length(pairs, 3) == bucket_by_length(shuffled, 3)
