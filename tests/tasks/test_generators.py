"""What every generated prompt keeps, for every kind of tokenizer: lengths, answers of one token, seeds."""

import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.errors import PromptError
from pipeline.models.tokens import tokenise
from pipeline.tasks import FileTask, GreaterThan, Induction, Ioi
from pipeline.tasks.ioi import NAMES
from tests.tasks.conftest import COMMON_NAMES

KINDS = ("word_level", "byte_level", "sentence_piece")
GENERATED = (Ioi, Induction, GreaterThan)
SEEDS = st.integers(min_value=0, max_value=2**40)


def write(task, tokenizer, seed=0):
    """The pairs, or none where this tokenizer has too few words for the task."""
    try:
        return task.pairs(tokenizer, seed)
    except PromptError:
        return []


def ids(tokenizer, text):
    return tokenizer(text)["input_ids"]


def variants():
    """Every task with every value of its corruption."""
    for task in GENERATED:
        field = task.model_fields.get("corruption")
        values = field.annotation.__args__ if field else (None,)
        yield from ((task, {"corruption": value} if value else {}) for value in values)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("task", "parameters"), list(variants()), ids=str)
def test_clean_and_corrupted_have_equal_length_and_answers_are_one_token_in_context(
    request, kind, task, parameters
):
    tokenizer = request.getfixturevalue(kind)
    drawn = []

    @settings(max_examples=3)  # each looks for the tokenizer's words again
    @given(seed=SEEDS, own=SEEDS)
    def check(seed, own):
        for pair in write(task(count=8, seed=own, **parameters), tokenizer, seed):
            drawn.append(pair)
            clean, corrupted = ids(tokenizer, pair.clean), ids(tokenizer, pair.corrupted)
            assert len(clean) == len(corrupted)
            assert clean != corrupted
            assert tokenizer.unk_token_id not in clean + corrupted
            tokens = {}
            for name, answers in (("right", pair.answers), ("wrong", pair.wrong_answers)):
                assert answers
                text = [tokenizer.decode([a]) if isinstance(a, int) else a for a in answers]
                tokens[name] = []
                for answer in text:
                    *before, token = ids(tokenizer, pair.clean + answer)
                    assert before == clean
                    tokens[name].append(token)
                if isinstance(answers[0], int):
                    assert tokens[name] == list(answers)
            assert not set(tokens["right"]) & set(tokens["wrong"])

    check()
    # stories260K knows three names: enough to exchange two, not to replace three.
    too_few = kind == "sentence_piece" and parameters.get("corruption") in ("abc", "random_names")
    assert bool(drawn) != too_few


@pytest.mark.parametrize("task", GENERATED)
@settings(max_examples=10)
@given(seed=SEEDS, own=SEEDS, fewer=st.integers(1, 5), more=st.integers(5, 12))
def test_a_larger_count_only_appends(word_level, task, seed, own, fewer, more):
    few = task(count=fewer, seed=own).pairs(word_level, seed)
    assert len(few) == fewer
    assert task(count=more, seed=own).pairs(word_level, seed)[:fewer] == few


@pytest.mark.parametrize("task", GENERATED)
def test_the_runs_seed_and_the_tasks_seed_both_change_the_prompts(word_level, task):
    prompts = {
        tuple(pair.clean for pair in task(count=8, seed=own).pairs(word_level, seed))
        for seed in range(3)
        for own in range(3)
    }
    assert len(prompts) == 9


def test_prompts_are_the_same_on_every_machine(planted):
    """Numbers drawn from a hash, not from Python's or NumPy's global state: these are written down."""
    (pair,) = Induction(count=1, seed=5).pairs(planted, 7)
    assert (pair.clean, pair.corrupted, pair.answers, pair.wrong_answers) == WRITTEN_DOWN


WRITTEN_DOWN = (
    "river rain blue hill fish sun green horse door book hill",
    "river rain blue green horse sun hill fish door book green",
    (" fish",),
    (" horse",),
)


@settings(max_examples=25)
@given(seed=SEEDS)
def test_ioi_names_the_answer_once_and_the_wrong_answer_twice(word_level, seed):
    for corruption in ("abc", "s2_io_flip", "s2_third"):
        (pair,) = Ioi(count=1, corruption=corruption).pairs(word_level, seed)
        (answer,), (wrong,) = ([a.strip() for a in answers] for answers in (pair.answers, pair.wrong_answers))
        clean, corrupted = (re.findall(r"\w+", text) for text in (pair.clean, pair.corrupted))
        assert (clean.count(answer), clean.count(wrong)) == (1, 2)
        changed = [(a, b) for a, b in zip(clean, corrupted, strict=True) if a != b]
        if corruption == "abc":
            assert len(changed) == 3
            assert len({name for _, name in changed} | {answer, wrong}) == 5
        elif corruption == "s2_io_flip":
            assert changed == [(wrong, answer)]
        else:
            ((before, after),) = changed
            assert before == wrong
            assert after in NAMES
            assert after not in (answer, wrong)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("task", GENERATED)
def test_spans_are_in_the_same_place_in_both_prompts(request, kind, task):
    """Cut out of the tokens, clean and corrupted pieces have as many words, and the clean ones are the names."""
    tokenizer = request.getfixturevalue(kind)
    flip = {"corruption": "s2_io_flip"} if task is Ioi else {}
    pairs = write(task(count=30, **flip), tokenizer)
    for pair, token in zip(pairs, tokenise(pairs, tokenizer), strict=True):
        assert list(token.spans) == SPANS[task]

        def said(ids, name, token=token):
            first, end = token.spans[name]
            return tokenizer.decode(ids[first:end]).strip()

        clean = {name: said(token.clean, name) for name in token.spans}
        corrupted = {name: said(token.corrupted, name) for name in token.spans}
        assert token.spans["end"][1] == token.length
        assert clean["end"] == pair.clean.split()[-1]
        if task is Ioi:
            (answer,), (wrong,) = (
                [a.strip() for a in answers] for answers in (pair.answers, pair.wrong_answers)
            )
            assert (clean["io"], clean["s1"], clean["s2"]) == (answer, wrong, wrong)
            assert token.spans["s1"][1] == token.spans["s1_next"][0]
            assert clean | {"s2": answer} == corrupted
            assert clean["s1_next"] in {"and", "went", "had", "were", "got"}
        elif task is Induction:
            a, b, c, d = (clean[name] for name in "abcd")
            assert (clean["end"], (f" {b}",), (f" {d}",)) == (a, pair.answers, pair.wrong_answers)
            assert corrupted == {"a": c, "b": d, "c": a, "d": b, "end": c}
            assert f"{a} {b}" in pair.clean
        else:
            year = re.search(r"year (\d+ ?\d+) to", pair.clean)[1]
            assert clean["year"].replace(" ", "") == year.replace(" ", "")
            assert clean["xx"] + clean["yy"] == year.replace(" ", "")
            assert clean["end"] == clean["xx"]
            assert {name for name in clean if clean[name] != corrupted[name]} == {"year", "yy"}
    assert pairs


SPANS = {
    Ioi: ["io", "s1", "s1_next", "s2", "end"],
    Induction: ["a", "b", "c", "d", "end"],
    GreaterThan: ["noun", "year", "xx", "yy", "end"],
}


def test_ioi_order_says_which_name_comes_first(word_level):
    for order, first in (("abba", "answers"), ("baba", "wrong_answers")):
        for pair in Ioi(count=30, order=order).pairs(word_level, 0):
            names = [word for word in re.findall(r"\w+", pair.clean) if word in NAMES]
            assert f" {names[0]}" == getattr(pair, first)[0]


def test_ioi_uses_only_names_that_are_one_token(byte_level):
    used = {a.strip() for pair in Ioi(count=200).pairs(byte_level, 0) for a in pair.answers}
    assert used == set(COMMON_NAMES)


@settings(max_examples=25)
@given(seed=SEEDS, length=st.integers(5, 12))
def test_induction_repeats_a_word_and_the_answer_is_what_followed_it(word_level, seed, length):
    for corruption in ("exchange", "answer", "break"):
        (pair,) = Induction(count=1, length=length, corruption=corruption).pairs(word_level, seed)
        *body, last = pair.clean.split(" ")
        *other, other_last = pair.corrupted.split(" ")
        assert len(body) == len(set(body)) == length
        assert f" {body[body.index(last) + 1]}" == pair.answers[0]
        assert body[0] == other[0]
        followed = f" {other[other.index(other_last) + 1]}" if other_last in other else None
        if corruption == "break":
            assert followed is None
        else:
            assert followed == pair.wrong_answers[0]
        assert (other_last == last) == (corruption != "exchange")


def test_greater_than_answers_are_all_later_years_of_the_century(word_level, byte_level):
    for tokenizer in (word_level, byte_level):
        for pair in GreaterThan(count=50).pairs(tokenizer, 0):
            century, year = re.search(r"year (\d\d)(\d\d) ", pair.clean).groups()
            assert pair.corrupted == pair.clean.replace(f"{century}{year} ", f"{century}01 ")
            assert pair.clean.endswith(f" {century}")
            whole = {"00"} if tokenizer is byte_level and century == "17" else set()
            later, earlier = (
                {tokenizer.decode([a]) for a in answers} for answers in (pair.answers, pair.wrong_answers)
            )
            assert later == {f"{y:02d}" for y in range(100) if y > int(year)}
            assert earlier == {f"{y:02d}" for y in range(100) if y <= int(year)} - whole


def test_greater_than_asks_for_the_last_digit_where_numbers_are_written_by_digits(sentence_piece):
    for pair in GreaterThan(count=30).pairs(sentence_piece, 0):
        stem, digit = re.search(r"year (\d\d\d)(\d) ", pair.clean).groups()
        assert pair.clean.endswith(stem)
        assert f"{stem}0 " in pair.corrupted
        assert {sentence_piece.decode([a]) for a in pair.answers} == set("0123456789"[int(digit) + 1 :])
        assert len(pair.answers) + len(pair.wrong_answers) == 10


@pytest.mark.parametrize("task", GENERATED)
def test_a_tokenizer_with_too_few_words_is_named_with_the_mend(four_letters, task):
    with pytest.raises(PromptError, match=r"this tokenizer .*give your own pairs") as caught:
        task().pairs(four_letters, 0)
    assert "\n" not in str(caught.value)


def test_the_mend_for_too_few_names_works(sentence_piece):
    with pytest.raises(PromptError, match=r"3 of .* names .*5 are needed; use corruption: s2_io_flip"):
        Ioi(corruption="abc").pairs(sentence_piece, 0)
    assert Ioi(corruption="s2_io_flip", count=1).pairs(sentence_piece, 0)


def test_the_mend_for_too_few_words_works(planted):
    with pytest.raises(PromptError, match=r"24 of .*41 are needed; use length: 23 or less"):
        Induction(length=40).pairs(planted, 0)
    assert Induction(length=23, count=1).pairs(planted, 0)


@pytest.mark.parametrize("task", GENERATED)
def test_a_model_without_tokenizer_is_refused(task):
    with pytest.raises(PromptError, match=f"task {task().name}: the model has no tokenizer"):
        task().pairs(None, 0)


def test_ids_name_what_differs_from_the_defaults():
    assert Ioi(count=7).id == "ioi"
    assert Ioi(corruption="s2_io_flip", seed=3).id == "ioi-3-s2_io_flip"
    assert Induction(length=8).id == "induction-8"
    assert GreaterThan.model_validate({"name": "greater_than", "as": "years"}).id == "years"
    assert FileTask(path="some/folder/My pairs.jsonl").id == "my-pairs"


@pytest.mark.parametrize("task", GENERATED)
def test_a_task_asks_for_the_token_for_the_beginning_in_every_prompt(byte_level, task):
    plain, asked = task(count=3).pairs(byte_level, 0), task(count=3, bos="add").pairs(byte_level, 0)
    assert [replace(pair, bos="add", source=f"{pair.source}") for pair in plain] == [
        replace(pair, source=pair.source.replace("-bos", "")) for pair in asked
    ]
    assert task(bos="add").id == f"{task().id}-bos"


def test_a_task_without_a_wish_for_the_beginning_is_written_as_ever():
    """What is written out is in run keys."""
    for task in (Ioi(), FileTask(path="p.jsonl")):
        assert "bos" not in task.model_dump(mode="json")
        asked = task.model_copy(update={"bos": "add"})
        assert asked.model_dump(mode="json") == {**task.model_dump(mode="json"), "bos": "add"}
        assert type(task)(**asked.model_dump(mode="json", by_alias=True)) == asked
