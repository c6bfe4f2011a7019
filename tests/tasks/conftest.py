"""Tokenizers of every kind that tasks meet: whole words, byte-level BPE, SentencePiece with digits."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from pipeline.models.toy import toy_path
from pipeline.tasks.greater_than import CENTURIES, NOUNS
from pipeline.tasks.induction import WORDS
from pipeline.tasks.ioi import NAMES, OBJECTS, PLACES

COMMON_NAMES, RARE_NAMES = NAMES[:12], NAMES[12:16]


@pytest.fixture(scope="session")
def planted() -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(toy_path("toy:planted"))


@pytest.fixture(scope="session")
def word_level() -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(toy_path("toy:trained"))


@pytest.fixture(scope="session")
def byte_level() -> PreTrainedTokenizerFast:
    """As GPT-2's: common names are one token, rare ones are not; 1700 is one token and 1732 two."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    words = [*COMMON_NAMES, *PLACES, *OBJECTS, *NOUNS, *WORDS[:40]]
    words += ["Then", "When", "After", "went", "gave", "lasted", "from", "year"]
    text = [f"the {word} " for word in words for _ in range(30)]
    text += [f"in {century} " for century in CENTURIES for _ in range(400)]
    text += [f"x{ending:02d} " for ending in range(100) for _ in range(20)]
    text += ["in 1700 "] * 300 + list(RARE_NAMES)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        text,
        trainers.BpeTrainer(
            vocab_size=1500, min_frequency=15, initial_alphabet=alphabet, show_progress=False
        ),
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>")


@pytest.fixture(scope="session")
def sentence_piece(shared_data: Path) -> PreTrainedTokenizerFast:
    """A Llama-style tokenizer: a token before every prompt, and numbers digit by digit."""
    return AutoTokenizer.from_pretrained(shared_data / "models" / "stories260K")


@pytest.fixture(scope="session")
def four_letters(shared_data: Path) -> PreTrainedTokenizerFast:
    """A tokenizer that knows the words a, b, c and d, and writes all others as one unknown token."""
    return AutoTokenizer.from_pretrained(shared_data / "models" / "tracr-prevtoken")
