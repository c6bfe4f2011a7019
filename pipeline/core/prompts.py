"""Clean/corrupted prompt pairs, as a person writes them and as a model reads them.

Knows what makes a pair usable once it is tokenised. Does not know tokenizers or files.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pipeline.core.errors import PromptError

Text = str | tuple[int, ...]  # a prompt as text, or as token ids
Piece = str | tuple[int, int]  # of a clean prompt: words in it, or where it begins and where it has ended
Bos = Literal["tokenizer", "add"]  # the token for the beginning of a text: as the tokenizer does, or always

SPAN_NAME = re.compile(r"[a-z0-9._-]{1,40}")
POSITION_WORDS = ("all", "last", "from_start", "from_end")  # what `positions` means in every prompt


@dataclass(frozen=True)
class PromptPair:
    """A clean and a corrupted prompt, with the right answers to the clean one and, where used, wrong ones.

    Prompts are text or token ids; answers are text pieces or token ids. `source` names where the pair comes
    from ("pronoun.jsonl:12") and is what errors quote. `spans` names pieces of the clean prompt: words that
    occur in it once, or [first, end) in characters; in token ids, [first, end) in tokens. `bos: add` puts the
    tokenizer's token for the beginning of a text before both prompts that do not begin with it. `notes` are whatever
    else its row says of it, for people.
    """

    clean: Text
    corrupted: Text
    answers: tuple[str | int, ...]
    wrong_answers: tuple[str | int, ...] = ()
    source: str = ""
    spans: Mapping[str, Piece] = field(default_factory=dict, hash=False)
    bos: Bos = "tokenizer"
    notes: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class TokenPair:
    """A prompt pair in a model's tokens: equal lengths, answers of one token each. `prompt_id` is its index
    in the task; `pair` keeps the text for people. `spans` are [first, end) in tokens of both prompts."""

    prompt_id: int
    clean: tuple[int, ...]
    corrupted: tuple[int, ...]
    answers: tuple[int, ...]
    wrong_answers: tuple[int, ...]
    pair: PromptPair
    spans: Mapping[str, tuple[int, int]] = field(default_factory=dict, hash=False)

    @property
    def length(self) -> int:
        return len(self.clean)


def check_pair(pair: TokenPair, *, max_length: int | None = None, needs_wrong: bool = False) -> None:
    """Raises `PromptError` naming the prompt when a tokenised pair cannot be used."""
    where = pair.pair.source or f"prompt {pair.prompt_id}"
    if not pair.clean:
        raise PromptError(f"{where}: the prompt is empty")
    if len(pair.clean) != len(pair.corrupted):
        raise PromptError(
            f"{where}: clean has {len(pair.clean)} tokens and corrupted {len(pair.corrupted)}; "
            "patching is position by position, so rewrite one of them to the same number of tokens"
        )
    if not pair.answers:
        raise PromptError(f"{where}: no answers; give the token that follows the clean prompt as 'answers'")
    if needs_wrong and not pair.wrong_answers:
        raise PromptError(f"{where}: the metric compares with wrong answers; add 'wrong_answers' or use nll")
    if both := set(pair.answers) & set(pair.wrong_answers):
        raise PromptError(f"{where}: token {min(both)} is both an answer and a wrong answer; keep it in one")
    if max_length is not None and len(pair.clean) > max_length:
        raise PromptError(
            f"{where}: {len(pair.clean)} tokens, but the model's context holds {max_length}; shorten it"
        )
    for name, (first, end) in pair.spans.items():
        if problem := span_name_problem(name):
            raise PromptError(f"{where}: the span {name!r} {problem}; rename it")
        if not 0 <= first < end <= pair.length:
            raise PromptError(
                f"{where}: the span {name!r} is [{first}, {end}) and the prompt has tokens 0 to {pair.length - 1}; "
                "give the first token and the one after the last"
            )


def span_name_problem(name: str) -> str | None:
    """Why no span may have that name, or None."""
    if name in POSITION_WORDS:
        return "has the name of positions that every prompt has"
    if SPAN_NAME.fullmatch(name) is None:
        return "is not made of 1 to 40 of a-z, 0-9 and . _ -"
    return "has a number as its name" if _is_number(name) else None


def _is_number(name: str) -> bool:
    try:
        float(name)
    except ValueError:
        return False
    return True


def bucket_by_length(pairs: Sequence[TokenPair], batch_size: int) -> list[list[TokenPair]]:
    """Batches of at most `batch_size` pairs, similar lengths together, in a reproducible order."""
    ordered = sorted(pairs, key=lambda pair: (pair.length, pair.prompt_id))
    return [ordered[i : i + batch_size] for i in range(0, len(ordered), batch_size)]
