"""Shards by length, by stratum and by time: every prompt in one of them, the same whoever computes."""

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.sharding import arranged, cut

LENGTHS = st.lists(st.integers(min_value=1, max_value=200), min_size=1, max_size=120)
MOST = st.integers(min_value=1, max_value=50)


@settings(deadline=None)
@given(LENGTHS, MOST, st.booleans(), st.integers(min_value=1, max_value=5))
def test_every_prompt_is_in_exactly_one_shard_none_of_which_is_too_large(lengths, most, by_length, n_strata):
    strata = [str(length % n_strata) for length in lengths]
    order = arranged(lengths, strata, by_length=by_length)
    by_prompts, by_tokens = cut(order, [1] * len(lengths), most), cut(order, lengths, 10 * most)
    for shards in (by_prompts, by_tokens):
        assert sorted(index for shard in shards for index in shard) == list(range(len(lengths)))
        assert all(shard == sorted(shard) and shard for shard in shards)
    assert [len(shard) for shard in by_prompts[:-1]] == [most] * (len(by_prompts) - 1)
    assert all(len(shard) == 1 or sum(lengths[i] for i in shard) <= 10 * most for shard in by_tokens)


@settings(deadline=None)
@given(LENGTHS, MOST)
def test_prompts_that_are_neither_sorted_nor_mixed_stay_in_order(lengths, most):
    order = arranged(lengths, [""] * len(lengths), by_length=False)
    assert order == list(range(len(lengths)))
    assert cut(order, [1] * len(lengths), most) == [
        list(range(start, min(start + most, len(lengths)))) for start in range(0, len(lengths), most)
    ]


@settings(deadline=None)
@given(LENGTHS, st.integers(min_value=2, max_value=4), MOST, st.booleans())
def test_every_stretch_holds_of_each_stratum_what_all_prompts_hold(lengths, n_strata, most, by_length):
    strata = [str(index % n_strata) for index in range(len(lengths))]
    share = {name: n / len(lengths) for name, n in Counter(strata).items()}
    for shard in cut(arranged(lengths, strata, by_length=by_length), [1] * len(lengths), most):
        found = Counter(strata[index] for index in shard)
        assert all(abs(found[name] - part * len(shard)) <= 2 for name, part in share.items())


def padding_waste(lengths, shards, batch_size):
    """The share of positions in batches that hold no token, when each shard is batched by length."""
    ordered = [sorted(lengths[index] for index in shard) for shard in shards]
    batches = [one[start : start + batch_size] for one in ordered for start in range(0, len(one), batch_size)]
    return 1 - sum(map(sum, batches)) / sum(len(batch) * batch[-1] for batch in batches)


def test_mixed_lengths_waste_under_a_twentieth_of_the_positions():
    lengths = np.random.default_rng(0).integers(5, 61, 2000).tolist()
    waste = {
        by_length: padding_waste(
            lengths, cut(arranged(lengths, [""] * 2000, by_length=by_length), [1] * 2000, 100), 32
        )
        for by_length in (False, True)
    }
    assert waste[False] > 0.15
    assert waste[True] < 0.05
