"""Answers in context: the one token by which prompt and answer are longer than the prompt, or one clear line."""

from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pipeline.core.errors import PromptError
from pipeline.core.prompts import PromptPair
from pipeline.models.tokens import CHUNK, tokenise
from pipeline.tasks import Induction, Ioi
from tests.models.test_encoding import Python
from tests.tokenizers import APART, AROUND, KINDS, WORDS, own, tokenizer

NAMES = ("Mary", "John", "Jessica", "Daniel")
PROMPTS = st.builds(
    lambda words, end: " ".join(words) + end,
    st.lists(st.sampled_from(WORDS), min_size=1, max_size=5),
    st.sampled_from(["", " ", ".", ",", " 'x", "  ", "</s>"]),
)
ANSWERS = st.builds(
    lambda space, word: space + word,
    st.sampled_from(["", " ", "  "]),
    st.sampled_from([*WORDS, ".", "s", "quark", "Sheshe", "The", "<s>"]),
)


def brute_force(made, kind, prompt, answer):
    """Every token of the vocabulary is tried; None where none, or more than one, is right."""
    texts = [prompt + answer]
    if kind in APART and not prompt[-1:].isspace() and not answer[0].isspace():
        texts.append(f"{prompt} {answer}")  # their tokens hold no space: "Mary" and " Mary" are one
    before = own(made, prompt)
    for text in texts:
        after = own(made, text)
        right = [t for t in range(len(made)) if (*before, t) == after]
        if right:
            return right[0] if right[0] != made.unk_token_id else None
    return None


def token_of(made, prompt, *answers):
    (read,) = tokenise([PromptPair(prompt, prompt, answers, source="mine.jsonl:3")], made)
    return read.answers


def check_answer(made, kind, prompt, answer):
    """The tokens of an answer are those of brute force, or one line says that there is none."""
    right = brute_force(made, kind, prompt, answer)
    for way in (made, Python(made)):
        if right is not None:
            assert token_of(way, prompt, answer) == (right,)
            continue
        with pytest.raises(PromptError, match=r"^mine\.jsonl:3: ") as caught:
            token_of(way, prompt, answer)
        said = str(caught.value)
        assert repr(answer) in said
        assert "\n" not in said
        assert "; " in said


@settings(max_examples=200)
@given(kind=st.sampled_from(KINDS), around=st.sampled_from(list(AROUND)), prompt=PROMPTS, answer=ANSWERS)
def test_an_answer_is_the_token_by_which_prompt_and_answer_are_longer_than_the_prompt(
    kind, around, prompt, answer
):
    check_answer(tokenizer(kind, around), kind, prompt, answer)


@pytest.mark.slow
@settings(max_examples=6_000)
@given(
    kind=st.sampled_from(KINDS),
    around=st.sampled_from(list(AROUND)),
    prompt=PROMPTS | st.text("aehtoSM .,'<>/s", max_size=20),
    answer=ANSWERS | st.text(" aehtoSM.,'<>/s", min_size=1, max_size=5),
)
def test_an_answer_is_that_token_in_thousands_of_texts(kind, around, prompt, answer):
    assume(own(tokenizer(kind, around), prompt))
    check_answer(tokenizer(kind, around), kind, prompt, answer)


@pytest.mark.parametrize("kind", KINDS)
def test_the_common_way_of_writing_an_answer_is_read_by_every_tokenizer(kind):
    made = tokenizer(kind, "first")
    prompt = "Then Jessica went to the store and gave"
    mary, john = token_of(made, prompt, " Mary", " John")
    for token, name in ((mary, "Mary"), (john, "John")):
        assert made.decode([token]).strip().lower() == name.lower()
    ids = tuple(made(prompt)["input_ids"])
    (beside_ids,) = tokenise([PromptPair(ids, ids, (" Mary", john))], made)
    assert beside_ids.answers == (mary, john)


@pytest.mark.parametrize(
    ("kind", "prompt", "answer", "says"),
    [
        ("bpe always", "went to", "Mary", r"'Mary' .*'went to' \(.*\); write ' Mary'$"),
        ("byte", "went to ", "Mary", r"merges .*'went to ' \(Ġ becomes ĠMary\); end the prompt before the space"),
        ("bpe first", "went to ", "Mary", r"; end the prompt before the space and write ' Mary'$"),
        ("byte", "went to", " Maryish", r"' Maryish' is \d tokens after this prompt, 'went to' \(ĠMary .*\); give an"),
        ("words", "went to", " quark", "does not know the answer ' quark'; use one of its words"),
        ("words", "went to", " ", r"' ' is 0 tokens after this prompt, 'went to'; give an answer"),
    ],
)  # fmt: skip
def test_an_answer_that_is_not_one_token_is_refused_with_prompt_tokens_and_mend(kind, prompt, answer, says):
    with pytest.raises(PromptError, match=says) as caught:
        token_of(tokenizer(kind, "first"), prompt, answer)
    assert "\n" not in str(caught.value)


def test_the_mend_for_an_answer_works():
    made = tokenizer("bpe always")
    with pytest.raises(PromptError, match="end the prompt before the space and write ' Mary'"):
        token_of(made, "went to ", "Mary")
    assert token_of(made, "went to", " Mary")


def test_long_prompts_and_answers_are_quoted_in_part():
    with pytest.raises(PromptError) as caught:
        token_of(tokenizer("byte"), "the store " * 5_000, "quark " * 5_000)
    assert len(str(caught.value)) < 400


FLIP = Ioi(count=20, corruption="s2_io_flip")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("task", [FLIP, Induction(count=20, length=5)], ids=["ioi", "induction"])
def test_tasks_write_answers_that_every_tokenizer_reads(kind, task):
    made = tokenizer(kind, "both")
    if kind == "words at spaces" and task.name == "ioi":
        pytest.skip("there a name and the comma after it are one word")
    pairs = task.pairs(made, 0)
    for pair, read in zip(pairs, tokenise(pairs, made), strict=True):
        for given_, tokens in ((pair.answers, read.answers), (pair.wrong_answers, read.wrong_answers)):
            assert tokens == tuple(brute_force(made, kind, pair.clean, answer) for answer in given_)


def test_pairs_are_read_alike_alone_and_among_many():
    made = tokenizer("unigram first", "both")
    pairs = [
        PromptPair(f"{a} went to", f"{b} went to", (f" {b}",), source=f"p {i}", spans={"x": a})
        for i, (a, b) in enumerate((NAMES[i % 4], NAMES[(i + 1) % 4]) for i in range(CHUNK + 9))
    ]
    pairs = [pair for pair in pairs if len(own(made, pair.clean)) == len(own(made, pair.corrupted))]
    together = tokenise(iter(pairs), made)
    assert [token.prompt_id for token in together] == list(range(len(pairs)))
    for token in together[:: len(pairs) // 9]:
        (alone,) = tokenise([token.pair], made)
        assert (alone.clean, alone.answers, alone.spans) == (token.clean, token.answers, token.spans)


def test_the_first_pair_that_cannot_be_used_is_named_before_any_later_one():
    made = tokenizer("words")
    good = PromptPair("went to", "gave to", (" Mary",), source="f:1")
    bad = [
        PromptPair("went to", "gave", (" Mary",), source="f:2"),
        PromptPair("went", "gave", (" q",), source="f:3"),
    ]
    with pytest.raises(PromptError, match=r"^f:2: clean has 2 tokens"):
        tokenise([good, *bad], made)
    with pytest.raises(PromptError, match=r"^f:3: the tokenizer does not know"):
        tokenise([good, bad[1], bad[0]], made)


def test_the_unknown_token_is_an_answer_where_it_is_meant():
    made = tokenizer("words", "first")
    assert token_of(made, "went to", " <unk>") == (made.unk_token_id,)


def test_text_that_a_model_has_no_rows_for_is_refused_while_it_is_read():
    made = tokenizer("words")
    token = max(made.convert_tokens_to_ids(word) for word in WORDS)
    last = made.convert_ids_to_tokens(token)
    for pair in (
        PromptPair(f"{last} the", f"{last} the", (" to",), source="f:1"),
        PromptPair("the to", "the to", (f" {last}",), source="f:1"),
    ):
        says = (
            rf"^f:1: token id {token} is outside of the model's vocabulary of {token}: .* '{last}' so; leave"
        )
        with pytest.raises(PromptError, match=says):
            tokenise([pair], made, vocab_size=token)


# --- the token for the beginning -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_begins_with_the_token_for_the_beginning_where_it_is_asked_for_and_never_twice(kind):
    prompt = "Mary went to the store"
    for around in ("nothing", "first", "the same", "two and two", "last"):
        made = tokenizer(kind, around)
        made.bos_token = "<s>"
        bos = made.bos_token_id
        for text in (prompt, f"<s>{prompt}"):
            pair = PromptPair(
                text, text.replace("Mary", "John"), (" Mary",), spans={"who": "Mary", "at": "store"}
            )
            (plain,), (added,) = tokenise([pair], made), tokenise([replace(pair, bos="add")], made)
            there = bos in plain.clean[: len(plain.clean) - len(own(made, prompt))]
            assert added.clean == (plain.clean if there else (bos, *plain.clean))
            assert added.corrupted[0] == added.clean[0]
            assert added.clean.count(bos) == 1
            assert added.answers == plain.answers
            for name, (first, end) in added.spans.items():
                start, stop = plain.spans[name]
                assert added.clean[first:end] == plain.clean[start:stop]
            ids = replace(pair, clean=plain.clean, corrupted=plain.corrupted, spans=plain.spans, bos="add")
            (beside,) = tokenise([ids], made)
            assert (beside.clean, beside.corrupted, beside.spans) == (
                added.clean,
                added.corrupted,
                added.spans,
            )
            assert beside.pair.clean == beside.clean, "ids are kept as the model reads them"
        made.bos_token = AROUND[around][1]


def test_a_token_for_the_beginning_that_is_not_there_is_refused_with_the_mend():
    text, ids = (PromptPair(p, p, (5,), source="f:1", bos="add") for p in ("went to", (5, 6)))
    for pair in (text, ids):
        with pytest.raises(
            PromptError, match=r"^f:1: bos: add, and this tokenizer has no token .*; leave bos out"
        ):
            tokenise([pair], tokenizer("byte"))
    with pytest.raises(
        PromptError, match=r"^f:1: bos: add, and the model has no tokenizer, .*; write its id at"
    ):
        tokenise([ids], None)


def test_words_are_known_where_the_tokens_for_the_beginning_and_for_the_unknown_are_one():
    """As GPT-2's."""
    made = tokenizer("byte", "the same")
    made.unk_token = "<s>"
    try:
        assert tokenise(FLIP.pairs(made, 0), made)
    finally:
        made.unk_token = "<unk>"


# --- spans -----------------------------------------------------------------------------------------------


@settings(max_examples=80)
@given(
    kind=st.sampled_from(KINDS),
    around=st.sampled_from(list(AROUND)),
    front=st.sampled_from(["", "<s>", "[CLS]", "</s>"]),
    words=st.lists(st.sampled_from(NAMES), min_size=2, max_size=4, unique=True),
    end=st.sampled_from(["", "</s>"]),
)
def test_a_span_is_its_words_whatever_stands_around_the_text(kind, around, front, words, end):
    made = tokenizer(kind, around)
    text = front + " ".join(words) + end
    for way in (made, Python(made)):
        pair = PromptPair(text, text, (9,), spans={word.lower(): word for word in words})
        (read,) = tokenise([pair], way)
        for word in words:
            first, stop = read.spans[word.lower()]
            assert made.decode(read.clean[first:stop]).strip().lower() == word.lower()
