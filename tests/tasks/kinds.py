"""Tokenizers of four kinds that know the words of every behaviour, made in a moment."""

from functools import cache
from string import Formatter
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from pipeline.tasks import TASKS
from pipeline.tasks.capital import Capital
from pipeline.tasks.frames import FramedTask
from pipeline.tasks.subject_verb import SubjectVerb
from pipeline.tasks.successor import Successor
from pipeline.tasks.translation import Translation
from pipeline.tasks.upper_case import UpperCase

KINDS = ("byte level", "pieces", "words")
FRAMED = tuple(task for task in TASKS if issubclass(task, FramedTask))
OTHERS = (
    Translation(into="spanish"),
    Translation(into="german"),
    UpperCase(letters="first"),
    Capital(shots=0),
)
OTHERS = (*OTHERS, SubjectVerb(attractor="same"), Successor(given=1))


@cache
def vocabulary() -> tuple[str, ...]:
    """The words of every list, and of every frame."""
    words: dict[str, None] = {}
    for made in (*(task() for task in FRAMED), *OTHERS):
        for kind in made.lists().values():
            words.update(dict.fromkeys(word for entry in kind for word in entry.split()))
        for frame in made.frames():
            for literal, *_ in Formatter().parse(frame):
                words.update(dict.fromkeys(literal.split()))
    return tuple(words)


@cache
def tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """Digits are tokens of their own in `byte level` and `pieces`; `letters` knows no word at all."""
    words = vocabulary()
    if kind == "letters":
        letters = sorted({letter for word in words for letter in word} | set(" \n"))
        made = Tokenizer(models.WordLevel({"<unk>": 0} | {x: i for i, x in enumerate(letters, 1)}, "<unk>"))
        made.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
        made.decoder = decoders.Fuse()
        return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>")
    if kind == "pieces":
        signs = sorted({letter for word in words for letter in word} | set("\n▁0123456789"))
        scores = dict.fromkeys(signs, -20.0)
        scores |= {space + word: -9.0 - len(space) for word in words for space in ("", "▁") if word.isalpha()}
        made = Tokenizer(models.Unigram([("<unk>", 0.0), *scores.items()], unk_id=0))
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        made.decoder = decoders.Metaspace(prepend_scheme="first")
        return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>")
    trainer: Any
    if kind == "words":
        words = (*words, *map(str, range(100)))
        made = Tokenizer(models.WordLevel(unk_token="<unk>"))
        made.pre_tokenizer = pre_tokenizers.Whitespace()
        trainer = trainers.WordLevelTrainer(special_tokens=["<unk>"], show_progress=False)
    else:
        made = Tokenizer(models.BPE())
        bytes_, digits = pre_tokenizers.ByteLevel(add_prefix_space=False), pre_tokenizers.Digits(True)
        made.pre_tokenizer = pre_tokenizers.Sequence([digits, bytes_])
        made.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=20_000, initial_alphabet=alphabet, show_progress=False)
    lines = [f"a {word} a\n{word}" for word in words]
    made.train_from_iterator([*lines, "0 1 2 3 4 5 6 7 8 9 + = , . : ( ) ;", *lines], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>" if kind == "words" else None)
