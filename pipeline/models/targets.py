"""What is measured of the answers of a pair, in tokens: one token, all of them, or the first that differs; behind the
prompt or a span of it; and the answers to the corrupted prompt.

Knows pairs whose prompts are in tokens. Does not know tokenizers: a reader tells what an answer is after a text.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Protocol, runtime_checkable

from pipeline.core.errors import PromptError
from pipeline.core.prompts import Answer, PromptPair, Sequences, Text, TokenPair

Ids = tuple[int, ...]


@runtime_checkable
class AnswerReader(Protocol):
    """What an answer is behind a prompt."""

    def sequence(self, prompt: Text, answer: Answer, where: str) -> Ids:
        """All tokens of an answer; PromptError where the prompt's end merges with it."""
        ...

    def ends(self, text: str, ids: Ids, where: str) -> bool:
        """Whether these tokens end with a text's."""
        ...


def is_plain(pair: PromptPair) -> bool:
    """Whether answers are one token each, behind the prompt, and nothing is said of the corrupted prompt's."""
    only = pair.target == "token" and pair.read is None and not pair.corrupted_answers
    return only and not any(isinstance(answer, tuple) for answer in (*pair.answers, *pair.wrong_answers))


def with_answers(token: TokenPair, reader: AnswerReader, where: str) -> TokenPair:
    """The pair, whose prompts and spans are in tokens, with its answers in tokens too."""
    pair = token.pair
    clean, read = _before(token, reader, where)
    corrupted = pair.corrupted if read is None else token.corrupted[: read + 1]
    right, wrong, others = (
        tuple(dict.fromkeys(reader.sequence(clean, answer, where) for answer in given))
        for given in (pair.answers, pair.wrong_answers, pair.corrupted_answers)
    )
    for answer, tokens in zip(dict.fromkeys(pair.corrupted_answers), others, strict=False):
        if reader.sequence(corrupted, answer, where) != tokens:
            raise PromptError(
                f"{where}: the answer {answer!r} to the corrupted prompt is other tokens after the clean one; write "
                "prompts that end alike"
            )
    if others and wrong and pair.target == "sequence" and not set(others) <= set(wrong):
        raise PromptError(
            f"{where}: corrupted_answers and other wrong_answers are not read in one run; leave wrong_answers out"
        )
    wrong = wrong or others
    if pair.target == "first_difference":
        return _first_difference(token, right, wrong, others, read, where)
    if pair.target == "token":
        for tokens in (*right, *wrong):
            if len(tokens) > 1:
                raise PromptError(
                    f"{where}: the answer {list(tokens)} is {len(tokens)} tokens; give one, or set target: sequence"
                )
    several = any(len(tokens) > 1 for tokens in (*right, *wrong))
    if several and read is not None:
        token, read = _ended(token, read), None
        pair = token.pair
    firsts = [tuple(dict.fromkeys(tokens[0] for tokens in given)) for given in (right, wrong, others)]
    if several and not all(isinstance(answer, str) for answer in (*pair.answers, *pair.wrong_answers)):
        pair = replace(pair, answers=right, wrong_answers=wrong)
    return replace(
        token,
        pair=pair,
        answers=firsts[0],
        wrong_answers=firsts[1],
        corrupted_answers=firsts[2],
        sequences=Sequences(right, wrong) if several else None,
        read=read,
    )


def _before(token: TokenPair, reader: AnswerReader, where: str) -> tuple[Text, int | None]:
    """What stands before the answer, and the token after which it is read where that is not the last."""
    pair = token.pair
    if pair.read is None:
        return pair.clean, None
    if pair.read not in token.spans:
        named = ", ".join(token.spans) or "none"
        raise PromptError(f"{where}: read: {pair.read} is no span of this prompt; it has {named}")
    end = token.spans[pair.read][1]
    before: Text = token.clean[:end]
    if isinstance(pair.clean, str):
        piece = pair.spans[pair.read]
        text = piece.strip() or piece if isinstance(piece, str) else piece
        before = pair.clean[: pair.clean.index(text) + len(text) if isinstance(text, str) else text[1]]
        if not reader.ends(before, token.clean[:end], where):
            raise PromptError(
                f"{where}: read: {pair.read} ends within a token of this tokenizer; name words that end where one does"
            )
    return before, None if end == len(token.clean) else end - 1


def _ended(token: TokenPair, read: int) -> TokenPair:
    """The prompts as far as the token behind which the answer stands: nothing that comes later can change it."""
    end, pair = read + 1, token.pair
    clean, corrupted = token.clean[:end], token.corrupted[:end]
    spans = {name: (first, min(last, end)) for name, (first, last) in token.spans.items() if first < end}
    if isinstance(pair.clean, str):
        pair = replace(pair, spans={name: pair.spans[name] for name in spans if name in pair.spans})
    else:
        pair = replace(pair, clean=clean, corrupted=corrupted, spans=spans, read=None)
    return replace(token, clean=clean, corrupted=corrupted, spans=spans, pair=pair)


def _first_difference(
    token: TokenPair,
    right: Sequence[Ids],
    wrong: Sequence[Ids],
    others: Sequence[Ids],
    read: int | None,
    where: str,
) -> TokenPair:
    """The prompts with what all answers have in common behind them, and the token of each that comes then."""
    every = (*right, *wrong)
    n_same = 0
    if wrong:
        n_same = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*every, strict=False)))
        if (short := next((tokens for tokens in every if len(tokens) == n_same), None)) is not None:
            raise PromptError(
                f"{where}: the answer {list(short)} is what another begins with, so that no token of it differs; give "
                "another"
            )
    if n_same and read is not None:
        token, read = _ended(token, read), None
    same = every[0][:n_same]
    firsts = [tuple(dict.fromkeys(tokens[n_same] for tokens in given)) for given in (right, wrong, others)]
    clean, corrupted, pair = (*token.clean, *same), (*token.corrupted, *same), token.pair
    if not isinstance(pair.clean, str):
        pair = replace(pair, clean=clean, corrupted=corrupted)
    if not all(isinstance(answer, str) for answer in (*pair.answers, *pair.wrong_answers)):
        pair = replace(pair, answers=firsts[0], wrong_answers=firsts[1])
    return replace(
        token,
        clean=clean,
        corrupted=corrupted,
        pair=pair,
        answers=firsts[0],
        wrong_answers=firsts[1],
        corrupted_answers=firsts[2],
        read=read,
    )
