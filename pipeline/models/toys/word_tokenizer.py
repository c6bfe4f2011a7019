"""The tokenizer of the bundled models: whole words, punctuation, and numbers two digits at a time.

Knows how to build one from a list of words. Does not know which words.
"""

from collections.abc import Sequence
from typing import Any


def word_tokenizer(words: Sequence[str], *, max_length: int) -> Any:
    """A Hugging Face fast tokenizer; `words` in the order of their ids, `[unk]` and `[pad]` among them."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[unk]"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\s+"), "removed"),
            pre_tokenizers.Split(Regex(r"\d\d|\[\w+\]|\w+|[^\w\s]"), "isolated"),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[unk]",  # noqa: S106 - a word, not a password
        pad_token="[pad]",  # noqa: S106
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )
