"""Texts read word by word have the tokens that the whole tokenizer gives them, with every tokenizer that may be cut."""

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from pipeline.core.errors import PromptError
from pipeline.core.prompts import PromptPair
from pipeline.models import words as module
from pipeline.models.cuts import cuts_of
from pipeline.models.encoding import encode_all
from pipeline.models.tokens import tokenise
from pipeline.models.words import LONGEST, Words
from tests.models.test_encoding import Python
from tests.tokenizers import AROUND, KINDS, SPECIAL, TEXT, tokenizer

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
MORE = ("llama 3", "qwen", "gemma", "lower case", "added")
CUT = [kind for kind in (*KINDS, *MORE) if kind != "bpe always collapsed"]


@cache
def made(kind, around="first"):
    """One of `tests.tokenizers`, or as large models have them."""
    if kind in KINDS:
        return tokenizer(kind, around)
    backend = Tokenizer(models.BPE(unk_token="<unk>" if kind == "gemma" else None))
    special = list(SPECIAL)
    if kind == "gemma":
        backend.normalizer = normalizers.Replace(" ", "▁")
        backend.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
        backend.decoder = decoders.Replace("▁", " ")
        texts, alphabet = [word for line in TEXT for word in (line.split()[0], f" {line.split()[1]}")], ["▁"]
    else:
        pattern = LLAMA3.replace("{1,3}", "") if kind == "qwen" else LLAMA3
        split = pre_tokenizers.Split(Regex(pattern), "isolated")
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [split, pre_tokenizers.ByteLevel(False, use_regex=False)]
        )
        backend.decoder = decoders.ByteLevel()
        steps = {
            "qwen": normalizers.NFC(),
            "lower case": normalizers.Sequence([normalizers.NFKD(), normalizers.Lowercase()]),
        }
        if kind in steps:
            backend.normalizer = steps[kind]
        texts, alphabet = TEXT, pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    if kind == "added":
        backend.add_tokens(
            [AddedToken("xx", lstrip=True, rstrip=True), AddedToken("Ma", single_word=True), " y"]
        )
    template = AROUND[around][0]
    backend.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[(s, backend.token_to_id(s)) for s in SPECIAL]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")


PIECES = [
    *("Mary", "went", "to", "the", "store", "x", "xx", "Mari", "y", "'s", "17", "2032", ".", ",", "-", "'"),
    *("▁", "é", "e\u0301", "ع", "ͺ", "中", "\u0301", "İ", "ß", *SPECIAL),
]
SPACES = [" ", " ", " ", " ", "  ", "\n", "\t", "\u00a0", "\u200b", "", ""]
TEXTS = st.lists(st.sampled_from(PIECES) | st.sampled_from(SPACES), max_size=12).map("".join)
LINES = st.lists(st.sampled_from(PIECES), min_size=1, max_size=7).map(" ".join)
GIVEN = {
    "kind": st.sampled_from(CUT),
    "around": st.sampled_from(list(AROUND)),
    "texts": st.lists(LINES | TEXTS, min_size=1, max_size=4),
    "more": st.sampled_from(
        [" Mary", "Mary", " 17", "7", "'s", " x", "xx", ".", " .", "\n", " the store", "<s>", " é", "\u0301"]
    ),
}


def check(kind, around, texts, more):
    whole = made(kind, around)
    reader = Words.of(whole)
    for _ in range(2):  # asked, then remembered
        found = reader.read(texts)
        for text, read in found.items():
            (expected,) = encode_all(whole, [text])
            assert read == expected, (kind, text)
            ends = reader.ends(text, more)
            if ends is not None:
                before, after = ends
                assert expected.ids[len(expected.ids) - len(before) :] == before
                (longer,) = encode_all(whole, [text + more])
                assert (*expected.ids[: len(expected.ids) - len(before)], *after) == longer.ids, (
                    kind,
                    text,
                    more,
                )


@settings(max_examples=60)
@given(**GIVEN)
def test_words_have_the_tokens_that_they_have_in_their_text(kind, around, texts, more):
    check(kind, around, texts, more)


@pytest.mark.slow
@settings(max_examples=5_000)
@given(
    **GIVEN
    | {
        "texts": st.lists(
            LINES | TEXTS | st.text(max_size=12) | st.text("aeMoSty .,'<>/▁\n", max_size=20), max_size=4
        )
    }
)
def test_words_have_the_tokens_that_they_have_in_thousands_of_texts(kind, around, texts, more):
    check(kind, around, texts, more)


@pytest.mark.parametrize("kind", CUT)
def test_ordinary_text_is_read_by_word_with_every_kind_that_may_be_cut(kind):
    text = "Then, Jessica went to the store. Daniel's ring was 17, so they gave"
    reader = Words.of(made(kind))
    assert reader.read([text]) == {text: encode_all(made(kind), [text])[0]}
    assert reader.ends(text, " John") is not None


def changed(**parts):
    backend = Tokenizer.from_str(made("llama 3").backend_tokenizer.to_str())
    for name, part in parts.items():
        setattr(backend, name, part)
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def across(**options):
    """A tokenizer with a token over a space, or other ways of merging, whose texts are not split."""
    vocabulary = {token: i for i, token in enumerate(("▁", "a", "b", "▁a", "b▁", "ab"))}
    merges = options.pop("merges", [("▁", "a")])
    if "b▁" not in map("".join, merges):
        vocabulary = {token: i for i, token in enumerate(("▁", "a", "b", "▁a", "ab"))}
    backend = Tokenizer(models.BPE(vocabulary, merges, **options))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(split=False)
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def test_a_tokenizer_of_which_it_is_not_proven_is_never_cut():
    assert cuts_of(made("llama 3")) is not None
    assert cuts_of(across()) is not None
    refused = [
        made("bpe always collapsed"),
        Python(made("llama 3")),
        changed(normalizer=normalizers.Strip()),
        changed(normalizer=normalizers.Replace(Regex("a b"), "ab")),
        changed(pre_tokenizer=pre_tokenizers.ByteLevel(use_regex=False)),
        changed(pre_tokenizer=pre_tokenizers.Digits()),
        changed(pre_tokenizer=pre_tokenizers.Split(Regex(r"\w+ \w+|."), "isolated")),
        changed(pre_tokenizer=pre_tokenizers.Split(Regex(LLAMA3), "merged_with_next")),
        changed(pre_tokenizer=pre_tokenizers.Split(" ", "merged_with_previous")),
        changed(post_processor=processors.TemplateProcessing(single="$A $A", special_tokens=[])),
        across(merges=[("b", "▁")]),
        across(dropout=0.5),
        across(ignore_merges=True),
        across(continuing_subword_prefix="##", merges=[]),
    ]
    for one in refused:
        assert cuts_of(one) is None
    spaced = changed()
    spaced.backend_tokenizer.add_tokens(["two words"])
    assert cuts_of(spaced) is None
    normalised = changed(normalizer=normalizers.Lowercase())
    normalised.backend_tokenizer.add_tokens([AddedToken("Mary", normalized=True)])
    assert cuts_of(normalised) is None


def test_what_is_remembered_has_an_end(monkeypatch):
    monkeypatch.setattr(module, "MOST", 20)
    whole = made("byte")
    reader = Words.of(whole)
    texts = [f"the {word} went" for word in {word for line in TEXT for word in line.split()}]
    for text in texts:
        assert reader.read([text])[text] == encode_all(whole, [text])[0]
        assert reader.ends(text, " to") is not None
        assert len(reader._behind) + len(reader._ends) < 40
    long = f"the {'a' * (LONGEST + 1)} went"
    assert reader.read([long, "the store"]).keys() == {"the store"}


def test_a_word_that_cannot_be_read_is_left_to_who_asks():
    vocabulary = {"a": 0, "b": 1}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))  # which it has not
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    whole = PreTrainedTokenizerFast(tokenizer_object=backend)
    reader = Words.of(whole)
    assert reader.read(["a b", "a c"]) == {}
    assert reader.read(["a b a"]).keys() <= {"a b a"}
    with pytest.raises(PromptError, match="cannot read 'a c'"):
        encode_all(whole, ["a c"])


@pytest.mark.parametrize("kind", ["words", "byte", "bpe legacy", "bpe always collapsed"])
def test_pairs_of_a_long_file_are_read_and_refused_as_one_alone(kind, monkeypatch):
    monkeypatch.setattr("pipeline.models.tokens.CHUNK", 8)
    whole = made(kind)
    names = ["Mary", "John"]
    pairs = [
        PromptPair(f"Then {a} went to", f"Then {b} went to", (f" {b}", b) if kind == "words" else (f" {b}",))
        for a, b in (names, names[::-1]) * 4
    ]
    last = PromptPair("the <s> went  to", "the <s> gave  to", (" Mary",))
    read = tokenise([*pairs, *pairs[:3], last], whole)
    alone = [tokenise([pair], whole)[0] for pair in pairs[:3]]  # a few are left to the tokenizer
    for some in (read[:3], read[-4:-1]):
        assert [(one.clean, one.corrupted, one.answers) for one in some] == [
            (one.clean, one.corrupted, one.answers) for one in alone
        ]
    assert tokenise([last], whole)[0].clean == read[-1].clean
    for bad in (
        PromptPair("the store", "the store", (" went to",), source="f:9"),
        PromptPair("the store", "the store", (" \u2603",), source="f:9"),
        PromptPair("the store", "the", (" to",), source="f:9"),
        PromptPair("the store", "the store", ("",), source="f:9"),
    ):
        said = []
        for given_ in ([bad], [*pairs, bad]):
            with pytest.raises(PromptError, match=r"^f:9: ") as caught:
                tokenise(given_, whole)
            said.append(str(caught.value))
        assert said[0] == said[1]
