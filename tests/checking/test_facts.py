"""What the tokens of prompts say by themselves, counted by hand."""

from pipeline.checking.facts import pieces, prompt_facts, shown
from pipeline.core.prompts import PromptPair, TokenPair
from tests.tokenizers import tokenizer


def pair(clean, corrupted, answers=(7,), wrong=(8,), spans=None, index=0):
    text = PromptPair(clean, corrupted, answers, wrong, source=f"pairs.jsonl:{index + 1}")
    return TokenPair(index, clean, corrupted, answers, wrong, text, spans or {})


def facts(pairs, per_shard=100, batch_size=2):
    return prompt_facts(pairs, None, per_shard=per_shard, batch_size=batch_size)


def test_padding_is_the_share_of_positions_in_batches_that_hold_no_token():
    pairs = [pair((1,) * n, (2,) * n) for n in (2, 4, 4, 8)]
    assert facts(pairs)["padding"] == 1 - 18 / (2 * 4 + 2 * 8)  # batches of 2 and 4, of 4 and 8
    assert facts(pairs, per_shard=3)["padding"] == 1 - 18 / (
        2 * 4 + 1 * 4 + 1 * 8
    )  # a shard of 2 4 4, one of 8
    assert facts(pairs)["tokens"] == [2, 4, 8]


def test_prompts_that_occur_again_and_those_that_occur_exchanged_are_counted():
    one, other = pair((1, 2), (1, 3)), pair((1, 3), (1, 2), answers=(8,), wrong=(7,))
    found = facts([one, one, other, pair((4, 4), (4, 5)), one])
    assert (found["duplicates"], found["exchanged"]) == (2, 2)  # the other, and the one that comes after it
    found = facts([one, pair((1, 2), (1, 3), answers=(9,))])
    assert (found["duplicates"], found["exchanged"]) == (0, 0)


def test_where_clean_and_corrupted_differ_is_said_by_span_and_from_the_end():
    spans = {"name": (1, 2), "end": (3, 4)}
    pairs = [
        pair((1, 2, 3, 4), (1, 9, 3, 4), spans=spans),
        pair((1, 2, 3, 4), (1, 9, 9, 4), spans=spans),
        pair((1, 2, 3, 4), (1, 2, 3, 4)),
        pair((1, 2, 3, 4), (1, 2, 9, 4)),
    ]
    found = facts(pairs)
    assert found["unchanged"] == 0.25
    assert found["differ"] == {
        "tokens": [1, 1, 2],
        "spans": {"end": 0.0, "name": 1.0},  # of the prompts that have the span
        "from_end": {"2": 0.5, "3": 0.5},
    }


def test_no_prompts_have_no_facts():
    found = facts([])
    assert (found["prompts"], found["tokens"], found["padding"], found["first"]) == (0, None, None, None)


def test_the_first_pair_is_shown_in_tokens_that_put_together_are_its_text():
    for kind in ("byte", "bpe always", "unigram first"):
        made = tokenizer(kind)
        ids = tuple(made("the store gave Mary umbrella")["input_ids"])
        first = shown(pair(ids, (*ids[:-1], ids[0]), answers=(ids[0],), wrong=(ids[1],)), made)
        assert "".join(first["clean"]).strip() == "the store gave Mary umbrella"
        assert first["differs_at"] == [len(ids) - 1]
        assert first["source"] == "pairs.jsonl:1"
        assert first["answers"] == pieces(made, ids[:1])


def test_without_a_tokenizer_tokens_are_numbers():
    assert pieces(None, (5, 17)) == ["5", "17"]
