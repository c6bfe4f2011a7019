"""Tokenizers of every kind, trained in a moment: what stands before a word, and what is put around a text."""

from functools import cache
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

WORDS = (
    *(
        "Then",
        "the",
        "store",
        "ring",
        "Jessica",
        "Daniel",
        "and",
        "went",
        "to",
        "gave",
        "a",
        "She",
        "He",
        "said",
    ),
    *("Mary", "John", "umbrella", "year", "17", "32", "was", "so", "that"),
)
TEXT = [
    f"{a} , {b} {c} ." for i, a in enumerate(WORDS) for b in WORDS[i % 5 :: 5] for c in WORDS[:: 1 + i % 3]
]
SPECIAL = ("<unk>", "<s>", "</s>", "[CLS]", "[SEP]")

# What is put around a text, with the tokens named as those of its beginning and end.
AROUND: dict[str, tuple[str, str | None, str | None]] = {
    "nothing": ("$A", None, "</s>"),
    "first": ("<s> $A", "<s>", "</s>"),
    "both": ("<s> $A </s>", "<s>", "</s>"),
    "the same": ("<s> $A <s>", "<s>", "<s>"),
    "an end that is none": ("<s> $A </s>", "<s>", None),
    "two and two": ("[CLS] <s> $A [SEP] </s>", "<s>", "</s>"),
    "last": ("$A </s>", None, "</s>"),
    "last twice": ("$A </s> </s>", "</s>", "</s>"),
}

_SPACED = {"always", "first", "never"}


def _backend(kind: str) -> Tokenizer:
    special = list(SPECIAL)
    if kind.startswith("byte"):
        made = Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space="prefix" in kind)
        made.decoder = decoders.ByteLevel()
        trainer: Any = trainers.BpeTrainer(
            vocab_size=600, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
        )
    elif kind.startswith(("words", "pieces")):
        made = Tokenizer(
            (models.WordLevel if kind.startswith("words") else models.WordPiece)(unk_token="<unk>")
        )
        made.pre_tokenizer = {
            "words": pre_tokenizers.Whitespace(),
            "words at spaces": pre_tokenizers.WhitespaceSplit(),
            "pieces": pre_tokenizers.BertPreTokenizer(),
        }[kind]
        if kind == "pieces":
            made.normalizer = normalizers.BertNormalizer()
            made.decoder = decoders.WordPiece()
            trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=special)
        else:
            trainer = trainers.WordLevelTrainer(special_tokens=special)
    else:
        model, scheme, *_ = kind.split()
        unigram = model == "unigram"
        made = Tokenizer(_unigram() if unigram else models.BPE(unk_token="<unk>", fuse_unk=True))
        if scheme in _SPACED:
            made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split="whole" not in kind)
        else:  # as in files of Llama 2: before anything else, and for every piece between special tokens
            made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        if "collapsed" in kind:
            made.normalizer = normalizers.Replace(Regex(" {2,}"), " ")
        made.decoder = decoders.Metaspace(prepend_scheme="never" if scheme == "never" else "always")
        if unigram:
            made.add_special_tokens(special)
            return made
        trainer = trainers.BpeTrainer(
            vocab_size=260, special_tokens=special, initial_alphabet=list("▁"), max_token_length=12
        )
    # A tokenizer that does not split at spaces is trained on words, or its tokens would be half sentences.
    words = [word for line in TEXT for word in line.split()]
    texts = {"whole": [f" {word}" for word in words], "legacy": words}.get(kind.rsplit(maxsplit=1)[-1], TEXT)
    trainer.show_progress = False
    made.train_from_iterator(texts, trainer)
    return made


def _unigram() -> models.Unigram:
    """Words with and without a space before them, and letters, which cost more."""
    letters = sorted({letter for line in TEXT for letter in line if letter != " "} | {"▁"})
    pieces = dict.fromkeys(letters, -9.0)
    pieces |= {f"{space}{word}": -5.0 - len(space) for word in WORDS for space in ("▁", "")}
    return models.Unigram([*((name, 0.0) for name in SPECIAL), *pieces.items()], unk_id=0)


KINDS = (
    *("words", "words at spaces", "pieces", "byte", "byte prefix"),
    *("bpe always", "bpe first", "bpe never", "bpe first whole", "bpe always collapsed", "bpe legacy"),
    *("unigram always", "unigram first", "unigram never"),
)
APART = ("words", "words at spaces", "pieces")  # the kinds whose tokens hold no space


@cache
def tokenizer(kind: str, around: str = "nothing") -> PreTrainedTokenizerFast:
    """A tokenizer of a kind, with special tokens put around the text."""
    made = Tokenizer.from_str(_trained(kind))
    template, first, last = AROUND[around]
    made.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[(s, made.token_to_id(s)) for s in SPECIAL]
    )
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token=first, eos_token=last, unk_token="<unk>")


@cache
def _trained(kind: str) -> str:
    return str(_backend(kind).to_str())


def own(tokenizer: Any, text: str) -> tuple[int, ...]:
    """The tokens of a text alone, from the library below transformers."""
    return tuple(tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids)
