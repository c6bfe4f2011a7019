"""Named pieces of a prompt, as the tokens that a model reads."""

import itertools

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pipeline.core.errors import PromptError
from pipeline.core.prompts import PromptPair
from pipeline.engine.batch import collate, from_ids
from pipeline.models.tokens import tokenise

KINDS = ("word_level", "byte_level", "sentence_piece")
TEXT = "Then, Jessica and Daniel went to the store. Jessica gave a ring to"
WORDS = st.lists(
    st.sampled_from(["Then", "the", "store", "ring", "Jessica", "x", "lunch"]), min_size=1, max_size=6
)


class Slow:
    """A tokenizer that does not say where its tokens lie."""

    is_fast = False

    def __init__(self, tokenizer):
        self._tokenizer = tokenizer

    def __getattr__(self, name):
        return getattr(self._tokenizer, name)

    def __call__(self, text, **settings):
        if "return_offsets_mapping" in settings:
            raise NotImplementedError
        return self._tokenizer(text, **settings)


def tokens_of(tokenizer, text, **spans):
    """{name: [first, end)} of spans of a prompt."""
    (token,) = tokenise([PromptPair(text, text, (0,), spans=spans, source="mine.jsonl:3")], tokenizer)
    return token.spans


def read(tokenizer, text, span):
    """The characters of a span's tokens, without white space around them."""
    ids = tokenizer(text)["input_ids"][slice(*span)]
    return tokenizer.decode(ids).strip()


@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_words_and_ranges_of_characters_are_the_same_tokens(request, kind, slow):
    tokenizer = request.getfixturevalue(kind)
    at = TEXT.index("store")
    spans = {
        "word": "store",
        "padded": " store",
        "range": (at, at + 5),
        "many": "went to the store",
        "end": (64, 66),
    }
    found = tokens_of(Slow(tokenizer) if slow else tokenizer, TEXT, **spans)
    assert found["word"] == found["padded"] == found["range"]
    assert read(tokenizer, TEXT, found["word"]) == "store"
    assert read(tokenizer, TEXT, found["many"]) == "went to the store"
    assert read(tokenizer, TEXT, found["end"]).endswith("to")
    assert found["end"][1] == len(tokenizer(TEXT)["input_ids"])


def test_half_a_word_is_the_token_that_it_is_in(word_level):
    found = tokens_of(word_level, TEXT, half="iel w", word="Daniel went")
    assert found["half"] == found["word"]


def test_white_space_around_words_is_no_part_of_them(byte_level):
    """There the space before a word is in its token: `Jessica and ` must not reach into the next."""
    found = tokens_of(byte_level, TEXT, a="Daniel ", b="Daniel", c=(TEXT.index("Daniel"), TEXT.index("went")))
    assert found["a"] == found["b"]
    assert found["c"] == (found["b"][0], found["b"][1] + 1), "characters are taken as they are"


@settings(max_examples=60)
@given(data=st.data(), words=WORDS)
def test_the_tokens_of_characters_are_those_that_overlap_them(byte_level, data, words):
    """Byte-level tokens of plain text are its characters in order, so that their lengths say where they are."""
    text = " ".join(words)
    begin = data.draw(st.integers(0, len(text) - 1))
    stop = data.draw(st.integers(begin + 1, len(text)))
    ends = list(itertools.accumulate(len(byte_level.decode([t])) for t in byte_level(text)["input_ids"]))
    assert ends[-1] == len(text)
    overlapping = [
        i for i, (a, b) in enumerate(zip([0, *ends], ends, strict=False)) if a < stop and b > begin
    ]
    expected = (overlapping[0], overlapping[-1] + 1)
    assert tokens_of(byte_level, text, piece=(begin, stop)) == {"piece": expected}


@pytest.mark.parametrize("kind", KINDS)
def test_a_tokenizer_without_offsets_gives_the_same_tokens_or_says_that_it_cannot(request, kind):
    tokenizer = request.getfixturevalue(kind)
    compared, refused = [], []

    @settings(max_examples=60)
    @given(data=st.data(), words=WORDS)
    def check(data, words):
        text = " ".join(words)
        begin = data.draw(st.integers(0, len(text) - 1))
        stop = data.draw(st.integers(begin + 1, len(text)))
        assume(text[begin:stop].strip())
        fast = tokens_of(tokenizer, text, piece=(begin, stop))
        try:
            compared.append(tokens_of(Slow(tokenizer), text, piece=(begin, stop)) == fast)
        except PromptError as error:
            refused.append(str(error))

    check()
    assert all(compared)
    assert len(compared) > 30
    assert all("does not tell which tokens" in message for message in refused)


BAD = {
    "absent": (
        {"x": "Mary"},
        r"the span 'x', 'Mary', is not in the clean prompt; give words that occur once",
    ),
    "twice": ({"x": "Jessica"}, r"the span 'x', 'Jessica', occurs 2 times in the clean prompt"),
    "overlapping": ({"x": "a"}, r"'a', occurs 6 times"),
    "empty": ({"x": ""}, r"'', is not in the clean prompt"),
    "beyond": ({"x": (60, 99)}, r"the span 'x' is \[60, 99\) and the clean prompt has 66 characters"),
    "backwards": ({"x": (9, 9)}, r"the span 'x' is \[9, 9\) and the clean prompt has"),
    "no token": ({"x": (5, 6)}, r"the span 'x', ' ', is no token of the prompt; name words"),
    "reserved": (
        {"from_end": "ring"},
        r"the span 'from_end' has the name of positions that every prompt has",
    ),
    "number": ({"-1": "ring"}, r"the span '-1' has a number as its name; rename it"),
    "capital": ({"IO": "ring"}, r"the span 'IO' is not made of 1 to 40 of a-z, 0-9 and \. _ -; rename it"),
    "long": ({"x" * 41: "ring"}, r"is not made of 1 to 40"),
    "newline": ({"x\n": "ring"}, r"the span 'x\\n' is not made of 1 to 40"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_span_that_cannot_be_used_is_one_line_with_prompt_and_name(word_level, kind):
    spans, message = BAD[kind]
    with pytest.raises(PromptError, match=r"^mine\.jsonl:3: .*" + message) as error:
        tokens_of(word_level, TEXT, **spans)
    assert "\n" not in str(error.value)


def test_spans_of_token_ids_are_ranges_of_tokens():
    pair = PromptPair(
        (5, 6, 7), (5, 8, 7), (1,), spans={"middle": (1, 2), "rest": (1, 3)}, source="ids.jsonl:1"
    )
    (token,) = tokenise([pair], None)
    assert token.spans == {"middle": (1, 2), "rest": (1, 3)}
    for piece, message in (
        ((1, 4), r"ids\.jsonl:1: the span 'x' is \[1, 4\) and the prompt has tokens 0 to 2; give the first"),
        ((2, 2), r"ids\.jsonl:1: the span 'x' is \[2, 2\)"),
        ("six", r"ids\.jsonl:1: the span 'x' is text in a prompt of token ids; give \[first, end\)"),
    ):
        with pytest.raises(PromptError, match=message):
            tokenise([PromptPair((5, 6, 7), (5, 8, 7), (1,), spans={"x": piece}, source="ids.jsonl:1")], None)


@pytest.mark.parametrize("padding", ["left", "right"])
def test_a_batch_marks_the_same_tokens_whatever_the_padding_and_the_part(padding):
    pairs = [
        PromptPair((1, 2, 3, 4), (1, 2, 3, 9), (1,), spans={"s": (1, 3), "end": (3, 4)}),
        PromptPair((5, 6), (5, 9), (1,), spans={"end": (1, 2)}),
        PromptPair((7, 8, 9), (7, 8, 1), (1,), spans={"s": (0, 1)}),
    ]
    batch = collate(tokenise(pairs, None), padding=padding)

    def marked(part, name):
        return [row[mask].tolist() for row, mask in zip(part.clean, part.at(name), strict=True)]

    for part, rows in ((batch, [0, 1, 2]), (batch.split(2)[1], [2]), (batch.only(batch.having("s")), [0, 2])):
        assert [part.prompt_ids[i] for i in range(len(rows))] == rows
        assert marked(part, "s") == [[[2, 3], [], [7]][row] for row in rows]
        assert marked(part, "end") == [[[4], [6], []][row] for row in rows]
        assert marked(part, "last") == [[[4], [6], [9]][row] for row in rows]
        assert marked(part, "nowhere") == [[] for _ in rows]
    assert batch.having("all").all()


def test_masks_of_a_batch_of_ids_are_checked():
    import torch

    ids, answers, real = (
        torch.ones(2, 3, dtype=torch.long),
        torch.tensor([1, 1]),
        torch.tensor([[1, 1, 1], [0, 1, 1]]),
    )
    for name, mask, message in (
        ("s", torch.ones(2, 2), r"the span 's' is not within the prompts; give a mask \[prompt, pos\]"),
        ("s", torch.ones(2, 3), r"the span 's' is not within the prompts"),
        ("last", real, r"the span 'last' has the name of positions"),
    ):
        with pytest.raises(PromptError, match=message):
            from_ids(ids, ids, answers, attention_mask=real, spans={name: mask})
    assert (
        from_ids(ids, ids, answers, attention_mask=real, spans={"s": real}).at("s").tolist()
        == real.bool().tolist()
    )
