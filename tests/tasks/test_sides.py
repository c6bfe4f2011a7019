"""Prompts that are held out share no word with the others that decides an answer."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import RunConfig
from pipeline.core.errors import ConfigError, PromptError
from pipeline.core.prompts import PromptPair
from pipeline.tasks import GreaterThan, Induction, Ioi
from pipeline.tasks.sides import deciding, drawn, side_of
from tests.configs import config
from tests.slowly import slow
from tests.tasks.kinds import FRAMED, KINDS, tokenizer

FEW = [(KINDS[i % 3], task) for i, task in enumerate(FRAMED)]
FEW = [*FEW[::3], *slow(*(case for i, case in enumerate(FEW) if i % 3))]


def parts_of(task):
    shown, judges = task(count=12, held_out=12).apart()
    return shown, judges


@pytest.mark.parametrize(("kind", "task"), FEW, ids=lambda one: one if isinstance(one, str) else one.__name__)
def test_no_word_that_decides_is_on_both_sides(kind, task):
    made = tokenizer(kind)
    shown, judges = parts_of(task)
    try:
        pairs = [part.pairs(made, 3) for part in (shown, judges)]
    except PromptError as error:
        assert "too few" in str(error) or "needed" in str(error)  # noqa: PT017 - a clear line is the other way out
        return
    words = [{word for pair in side for word in deciding(pair, closed=task.closed)} for side in pairs]
    assert words[0]
    assert not words[0] & words[1]
    assert [pair for pair in pairs[0] if pair in pairs[1]] == []


@pytest.mark.parametrize("task", [Ioi, Induction, GreaterThan])
def test_tasks_with_writers_of_their_own_divide_too(task, byte_level):
    shown, judges = parts_of(task)
    sides = [
        {side_of(pair, closed=task.closed) for pair in part.pairs(byte_level, 0)} for part in (shown, judges)
    ]
    assert sides == [{"discovery"}, {"held_out"}]


def test_a_larger_count_only_appends_and_nothing_held_out_changes_no_prompt(byte_level):
    few, many = (Ioi(count=n, side="discovery").pairs(byte_level, 1) for n in (5, 9))
    assert many[:5] == few
    assert Ioi(count=5, side="all").pairs(byte_level, 1) == Ioi(count=5).pairs(byte_level, 1)
    assert "side" not in Ioi().model_dump()
    assert "held_out" not in Ioi().model_dump()


@settings(max_examples=50)
@given(words=st.lists(st.sampled_from("abcdefgh"), min_size=2, max_size=2, unique=True))
def test_a_pair_and_its_exchange_are_on_one_side(words):
    one, other = words
    pair = PromptPair(f"x {one} y", f"x {other} y", (f" {one}",), (f" {other}",))
    back = PromptPair(f"x {other} y", f"x {one} y", (f" {other}",), (f" {one}",))
    assert side_of(pair) == side_of(back)


def test_words_that_cannot_be_divided_are_one_line():
    pair = PromptPair("a b", "a c", (" b",), (" c",))
    side = side_of(pair)
    other = "discovery" if side != "discovery" else "held_out"
    import numpy as np

    with pytest.raises(
        PromptError, match=r"task ioi: this tokenizer has too few of its words to hold some of them out"
    ):
        drawn(lambda rng: pair, np.random.default_rng(0), other, closed=False, name="ioi")


def test_a_task_that_holds_prompts_out_becomes_two_of_a_config():
    one = config(tasks=[{"name": "ioi", "count": 8, "held_out": 4}, {"name": "induction"}])
    assert list(one.task_ids) == ["ioi", "ioi-held-out", "induction"]
    assert list(one.discovering) == ["ioi", "induction"]
    again = RunConfig.from_mapping(one.model_dump(mode="json", by_alias=True))
    assert again.task_ids == one.task_ids
    with pytest.raises(ConfigError, match=r"held_out_of: unknown task 'iio'"):
        config(tasks=[{"name": "ioi"}, {"name": "induction", "held_out_of": "iio"}])
