"""The prompts of a task in tokens, those that cannot be used set aside with the reason, and not refused one and all.

Knows tasks and tokenizers. Does not know models.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from pipeline.core.errors import PromptError
from pipeline.core.prompts import PromptPair, TokenPair, check_pair
from pipeline.models.tokens import CHUNK, Reader


@dataclass
class Refused:
    """Prompts that cannot be used: how many for each reason, and what was said of the first."""

    count: dict[str, int] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, message: str) -> None:
        why = reason(message)
        self.count[why] = self.count.get(why, 0) + 1
        self.first.setdefault(why, message)

    @property
    def total(self) -> int:
        return sum(self.count.values())

    def to_list(self) -> list[dict[str, Any]]:
        """The reasons as plain data, the most frequent first."""
        ordered = sorted(self.count.items(), key=lambda pair: -pair[1])
        return [{"reason": why, "prompts": n, "first": self.first[why]} for why, n in ordered]


def usable(
    pairs: Iterable[PromptPair], tokenizer: Any, refused: Refused, **limits: Any
) -> Iterator[TokenPair]:
    """The pairs that can be used, in tokens, their index in `pairs` as their id; the others are added to `refused`.

    `limits`: `vocab_size`, `max_length` and `needs_wrong`, as `pipeline.models.tokens.tokenised` takes them.
    """
    numbered, vocab_size = enumerate(pairs), limits.pop("vocab_size", None)
    while chunk := list(islice(numbered, CHUNK)):
        reader = Reader.of([pair for _, pair in chunk], tokenizer, vocab_size)
        for index, pair in chunk:
            try:
                token = reader.tokens(index, pair)
                check_pair(token, **limits)
            except PromptError as error:
                refused.add(str(error))
            else:
                yield token


def reason(message: str) -> str:
    """What is wrong, without which prompt, which words and which numbers: the same for prompts of one kind of fault."""
    said = re.sub(r"""(?<!\w)('[^']*'|"[^"]*")""", "…", message.partition(": ")[2] or message)
    said = said.partition(" (")[0].partition(";")[0]
    said = re.sub(r"\d[\d,]*", "n", said)
    return " ".join(said.replace("…, …", "…").split()).removesuffix(",").replace(", …", "")
