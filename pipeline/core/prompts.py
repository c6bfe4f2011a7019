"""Clean/corrupted prompt pairs, as a person writes them and as a model reads them.

Knows what makes a pair usable once it is tokenised. Does not know tokenizers or files.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, TypeVar

from pipeline.core.errors import PromptError

Text = str | tuple[int, ...]  # a prompt as text, or as token ids
Piece = str | tuple[int, int]  # of a clean prompt: words in it, or where it begins and where it has ended
Answer = str | int | tuple[int, ...]  # as text, a token id, or the ids of all its tokens
Target = Literal["token", "sequence", "first_difference"]  # what is measured of an answer (`PromptPair`)
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

    `target` says what is measured of answers: that they are one `token` each, which is checked; the `sequence` of all
    their tokens, each given those before it; or the token at the `first_difference` among all right and wrong ones,
    after what they have in common. They follow the prompt, or its span `read`. `corrupted_answers` are the right ones
    after the corrupted prompt: the wrong ones of the clean prompt, where none are given.
    """

    clean: Text
    corrupted: Text
    answers: tuple[Answer, ...]
    wrong_answers: tuple[Answer, ...] = ()
    source: str = ""
    spans: Mapping[str, Piece] = field(default_factory=dict, hash=False)
    bos: Bos = "tokenizer"
    notes: Mapping[str, Any] = field(default_factory=dict, hash=False)
    target: Target = "token"
    read: str | None = None
    corrupted_answers: tuple[Answer, ...] = ()


@dataclass(frozen=True)
class Sequences:
    """All tokens of every answer of a prompt, right and wrong, where some have several."""

    answers: tuple[tuple[int, ...], ...]
    wrong_answers: tuple[tuple[int, ...], ...]

    @cached_property
    def forced(self) -> tuple[tuple[int, ...], ...]:
        """What the model has to be given behind the prompt: every beginning of an answer that has a token after it,
        each once and after those that it goes on from. The last token of each stands there."""
        found: dict[tuple[int, ...], None] = {}
        for tokens in (*self.answers, *self.wrong_answers):
            found.update(dict.fromkeys(tokens[:n] for n in range(1, len(tokens))))
        return tuple(found)

    @property
    def branches(self) -> bool:
        """Whether they go on from the prompt in more than one way."""
        return any(len(tokens) != n for n, tokens in enumerate(self.forced, start=1))


@dataclass(frozen=True)
class TokenPair:
    """A prompt pair in a model's tokens: equal lengths, answers of one token each. `prompt_id` is its index
    in the task; `pair` keeps the text for people. `spans` are [first, end) in tokens of both prompts.

    Where answers have several tokens, `sequences` holds them, and `answers` their first ones. `read` is the token
    after which they are read, where it is not the last; `corrupted_answers` are the right ones after the corrupted
    prompt, where they are known."""

    prompt_id: int
    clean: tuple[int, ...]
    corrupted: tuple[int, ...]
    answers: tuple[int, ...]
    wrong_answers: tuple[int, ...]
    pair: PromptPair
    spans: Mapping[str, tuple[int, int]] = field(default_factory=dict, hash=False)
    sequences: Sequences | None = None
    read: int | None = None
    corrupted_answers: tuple[int, ...] = ()

    @property
    def length(self) -> int:
        """Positions that it takes: its tokens, and those of answers that are given to the model behind them."""
        return len(self.clean) + (0 if self.sequences is None else len(self.sequences.forced))

    @property
    def longest(self) -> int:
        """Tokens of the longest text among the prompt and what its answers make of it."""
        forced = () if self.sequences is None else self.sequences.forced
        return len(self.clean) + max(map(len, forced), default=0)


def check_pair(
    pair: TokenPair,
    *,
    max_length: int | None = None,
    needs_wrong: bool = False,
    max_branched: int | None = None,
) -> None:
    """Raises `PromptError` naming the prompt when a tokenised pair cannot be used. `max_branched` is how long the text
    may be of which several continuations are read: what the model does with more depends on each alone."""
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
    if pair.sequences is not None:
        _check_sequences(pair, pair.sequences, where, max_branched)
    elif both := set(pair.answers) & set(pair.wrong_answers):
        raise PromptError(f"{where}: token {min(both)} is both an answer and a wrong answer; keep it in one")
    if max_length is not None and pair.longest > max_length:
        raise PromptError(
            f"{where}: {pair.longest} tokens, but the model's context holds {max_length}; shorten it"
        )
    for name, (first, end) in pair.spans.items():
        if problem := span_name_problem(name):
            raise PromptError(f"{where}: the span {name!r} {problem}; rename it")
        if not 0 <= first < end <= len(pair.clean):
            raise PromptError(
                f"{where}: the span {name!r} is [{first}, {end}) and the prompt has tokens 0 to {len(pair.clean) - 1}; "
                "give the first token and the one after the last"
            )


def _check_sequences(pair: TokenPair, found: Sequences, where: str, max_branched: int | None) -> None:
    """Raises for answers of several tokens of which the probabilities would not add up, or that one run cannot read."""
    if both := set(found.answers) & set(found.wrong_answers):
        raise PromptError(
            f"{where}: the tokens {list(min(both))} are both an answer and a wrong answer; keep them in one"
        )
    for given in (found.answers, found.wrong_answers):
        for one in given:
            if longer := [other for other in given if other != one and other[: len(one)] == one]:
                raise PromptError(
                    f"{where}: the answer {list(one)} begins the answer {list(longer[0])}, and its probability holds "
                    "the other's; give one of them"
                )
    if found.branches and max_branched is not None and pair.longest > max_branched:
        raise PromptError(
            f"{where}: answers that go on in several ways are read in one run, which in this model is exact up to "
            f"{max_branched} tokens, and there are {pair.longest}; shorten it, or set target: first_difference"
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


T = TypeVar("T")


def some(prompts: Sequence[T], task: str) -> Sequence[T]:
    """The same; PromptError where a filter has kept no prompt of the task."""
    if not prompts:
        raise PromptError(
            f"task {task}: filter: correct keeps no prompt, for the model gets all of them wrong; see the folder "
            "filtered, and choose other prompts or another model (circuits check)"
        )
    return prompts


def bucket_by_length(pairs: Sequence[TokenPair], batch_size: int) -> list[list[TokenPair]]:
    """Batches of at most `batch_size` pairs, similar lengths together, in a reproducible order."""
    ordered = sorted(pairs, key=lambda pair: (pair.length, pair.prompt_id))
    return [ordered[i : i + batch_size] for i in range(0, len(ordered), batch_size)]
