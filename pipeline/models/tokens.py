"""From text to the model's tokens: prompts, and answers *in context*.

Knows tokenizers. Does not know files, tasks or tensors.

An answer is the one token that follows the prompt in encode(prompt + answer): with SentencePiece tokenizers
the answer encoded alone has another first piece, and the wrong token would be scored without a word.
"""

from collections.abc import Sequence
from typing import Any

from pipeline.core.errors import PromptError
from pipeline.core.prompts import PromptPair, Text, TokenPair, check_pair
from pipeline.models.encoding import encode
from pipeline.models.spans import token_spans


def drops_leading_space(tokenizer: Any) -> bool:
    """True for word-level tokenizers, which split at white space and do not keep it in the token."""
    plain = {"add_special_tokens": False}
    return bool(tokenizer(" x", **plain)["input_ids"] == tokenizer("x", **plain)["input_ids"])


def answer_token(tokenizer: Any, prompt: str, answer: str, where: str) -> int:
    """Id of the one token that follows `prompt` when `answer` is written after it.

    Raises PromptError, naming `where`, when the answer is no single token there.
    """
    before = encode(tokenizer, prompt)
    glue = " " if drops_leading_space(tokenizer) and not prompt.endswith(" ") else ""
    after = encode(tokenizer, prompt + glue + answer)
    if len(after) == len(before) + 1 and after[: len(before)] == before:
        if after[-1] == tokenizer.unk_token_id:
            raise PromptError(
                f"{where}: the tokenizer does not know the answer {answer!r}; use one of its words"
            )
        return after[-1]
    if after[: len(before)] == before:
        pieces = tokenizer.convert_ids_to_tokens(list(after[len(before) :]))
        raise PromptError(
            f"{where}: the answer {answer!r} is {len(pieces)} tokens after this prompt ({' '.join(pieces)}); "
            "give an answer of one token, or its first piece"
        )
    raise PromptError(
        f"{where}: the answer {answer!r} merges with the end of the prompt into other tokens; "
        "move the border, for instance the space, from the one to the other"
    )


def tokenise(
    pairs: Sequence[PromptPair],
    tokenizer: Any,
    *,
    max_length: int | None = None,
    vocab_size: int | None = None,
    needs_wrong: bool = False,
) -> list[TokenPair]:
    """The pairs in tokens, each checked; `prompt_id` is the index in `pairs`.

    Raises PromptError that names the pair for unequal lengths, answers of more than one token, ids outside of
    the vocabulary, a prompt longer than `max_length`, a missing wrong answer where `needs_wrong`, or a span that
    is not where it is said to be.
    """
    tokens = []
    for index, pair in enumerate(pairs):
        where = pair.source or f"prompt {index}"
        clean = _ids(tokenizer, pair.clean, where, vocab_size)
        corrupted = _ids(tokenizer, pair.corrupted, where, vocab_size)
        answers = tuple(_answer(tokenizer, pair.clean, a, where, vocab_size) for a in pair.answers)
        wrong = tuple(_answer(tokenizer, pair.clean, a, where, vocab_size) for a in pair.wrong_answers)
        spans = token_spans(tokenizer, pair, clean, where)
        token_pair = TokenPair(index, clean, corrupted, _unique(answers), _unique(wrong), pair, spans)
        check_pair(token_pair, max_length=max_length, needs_wrong=needs_wrong)
        tokens.append(token_pair)
    return tokens


def _unique(ids: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(dict.fromkeys(ids))


def _ids(tokenizer: Any, text: Text, where: str, vocab_size: int | None) -> tuple[int, ...]:
    if isinstance(text, str):
        if tokenizer is None:
            raise PromptError(f"{where}: the model has no tokenizer; give the prompts as lists of token ids")
        return encode(tokenizer, text)
    return tuple(_in_vocabulary(token, where, vocab_size) for token in text)


def _answer(tokenizer: Any, prompt: Text, answer: str | int, where: str, vocab_size: int | None) -> int:
    if isinstance(answer, int):
        return _in_vocabulary(answer, where, vocab_size)
    if tokenizer is None:
        raise PromptError(f"{where}: the model has no tokenizer; give the answers as token ids")
    if isinstance(prompt, str):
        return answer_token(tokenizer, prompt, answer, where)
    ids = tokenizer(answer, add_special_tokens=False)["input_ids"]
    if len(ids) != 1:
        raise PromptError(
            f"{where}: the answer {answer!r} is {len(ids)} tokens; beside prompts of ids, give its id"
        )
    return int(ids[0])


def _in_vocabulary(token: int, where: str, vocab_size: int | None) -> int:
    if token < 0 or (vocab_size is not None and token >= vocab_size):
        raise PromptError(f"{where}: token id {token} is outside of the model's vocabulary of {vocab_size}")
    return int(token)
