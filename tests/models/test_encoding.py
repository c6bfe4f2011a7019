"""What a tokenizer adds to a text: kept before it, once, and cut after it, whatever the tokens are called."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.errors import PromptError
from pipeline.models.encoding import encode, encode_all
from tests.tokenizers import AROUND, KINDS, SPECIAL, own, tokenizer

TEXTS = st.lists(st.sampled_from(["Then", " the", " store", "to", " ", ",", *SPECIAL]), max_size=6).map(
    "".join
)


class Python:
    """A tokenizer in front of which there is code of Python: nothing can be known of what it does."""

    is_fast = False

    def __init__(self, inner):
        self._inner = inner

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def __call__(self, text, **settings):
        return {"input_ids": self._inner(text, **settings)["input_ids"]}


def before(kind, around):
    """The ids that a template names before the text."""
    names = AROUND[around][0].partition("$A")[0].split()
    return tuple(tokenizer(kind, around).convert_tokens_to_ids(names))


@pytest.mark.parametrize("around", AROUND)
def test_a_prompt_ends_where_its_text_ends_and_begins_with_what_the_tokenizer_adds(around):
    text = "Then, Jessica went to the store"
    for kind in KINDS:
        made = tokenizer(kind, around)
        expected = (*before(kind, around), *own(made, text))
        assert encode(made, text) == encode(Python(made), text) == expected
        whole = tuple(made(text)["input_ids"])
        assert whole[: len(expected)] == expected, "what transformers gives begins like this"


@settings(max_examples=150)
@given(kind=st.sampled_from(KINDS), around=st.sampled_from(list(AROUND)), text=TEXTS)
def test_special_tokens_of_the_text_are_kept_and_those_before_it_are_not_doubled(kind, around, text):
    """By the template's own words: tokens are added only as far as the text does not begin with them."""
    made = tokenizer(kind, around)
    words = own(made, text)
    added = before(kind, around)
    expected = words
    for first in reversed(added[: added.index(words[0])] if words and words[0] in added else added):
        expected = (first, *expected)
    assert encode(made, text) == expected


@pytest.mark.parametrize("around", ["first", "both", "the same"])
def test_a_text_that_a_chat_template_wrote_is_read_as_the_template_says(around):
    for kind in KINDS:
        made = tokenizer(kind, around)
        made.chat_template = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}"
        chat = [{"role": "user", "content": "Then the store"}]
        right = made.apply_chat_template(chat, tokenize=True, return_dict=False)
        assert encode(made, made.apply_chat_template(chat, tokenize=False)) == tuple(right)
        assert right.count(made.bos_token_id) == 1


def test_an_end_token_that_the_text_itself_writes_stays():
    for around in ("both", "the same", "last", "last twice", "an end that is none"):
        made = tokenizer("byte", around)
        for end in ("</s>", "<s>"):
            assert encode(made, f"the store{end}")[-1] == made.convert_tokens_to_ids(end)


def test_many_texts_are_read_as_one_by_one_and_the_tokenizer_is_left_as_it_was():
    made = tokenizer("bpe first", "both")
    texts = ["Then the store", "", "<s> the", "She said"]
    made.backend_tokenizer.enable_truncation(2)
    made.backend_tokenizer.enable_padding(length=9)
    assert [read.ids for read in encode_all(made, texts)] == [encode(made, text) for text in texts]
    assert made("Then the store")["input_ids"] == [1, *own(made, "Then the store"), 2]


def test_a_token_for_the_beginning_is_added_once():
    (plain,) = encode_all(tokenizer("byte"), ["the store"])
    assert plain.begun_with(1).ids == (1, *plain.ids)
    for around, text in (("both", "the store"), ("two and two", "the store"), ("nothing", "<s>the store")):
        (read,) = encode_all(tokenizer("byte", around), [text], places=True)
        assert read.begun_with(1) == read


def test_a_text_that_a_tokenizer_cannot_read_is_one_line():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    nothing = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="<unk>"))
    )
    assert encode(nothing, "a") == (0,)
    with pytest.raises(
        PromptError, match=r"the tokenizer cannot read 'b' \(.*\); use words that it knows"
    ) as caught:
        encode_all(nothing, ["a", "b"])
    assert "\n" not in str(caught.value)
