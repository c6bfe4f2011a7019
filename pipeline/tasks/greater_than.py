"""Greater-than (Hanna et al., arXiv 2305.00586).

    The war lasted from the year 1732 to the year 17  ->  any of 33 .. 99

Knows three ways of splitting a year and finds the one a tokenizer uses. Does not know models.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np

from pipeline.core.errors import PromptError
from pipeline.core.graph import Graph
from pipeline.core.prompts import PromptPair
from pipeline.models.encoding import encode, encode_all
from pipeline.tasks import published
from pipeline.tasks.base import GeneratedTask, is_known, written

SENTENCE = "The {noun} lasted from the year {year} to the year {stem}"
CENTURIES = tuple(str(century) for century in range(11, 18))
_NOUNS = """
    war trip plan story study project mission battle journey campaign contract marriage voyage reign
    siege trial strike famine drought conflict dispute debate quest rule pact peace plague tour fight
    work school game play day time
"""
NOUNS = tuple(_NOUNS.split())


@dataclass(frozen=True)
class Splitting:
    """A way of writing a year as a stem and an ending of one token.

    `token[stem][ending]` is the ending's token after that stem; `lowest` is the corrupted prompt's ending.
    """

    joint: str
    lowest: str
    token: dict[str, dict[str, int]]


class GreaterThan(GeneratedTask):
    """`count` prompts "The {noun} lasted from the year XXYY to the year XX"; answers are all endings above YY.

    Wrong answers are all up to YY, as token ids; the corrupted prompt has 01.
    Centuries are 11 to 17. How a year is split follows the tokenizer, the first way that fits:
    17|32 (GPT-2 and others; years that it writes as one token are left out of prompts and of answers, where
    the authors keep them in the answers), "17 32" as two words, or 173|2 (digits; the answer is the last one,
    and the corrupted prompt has 0).
    Spans: `noun`, `year` the first year, `xx` and `yy` its beginning and ending as they are split, `end` the last
    word, which is the beginning of the second year.
    """

    name: Literal["greater_than"] = "greater_than"
    paper: ClassVar = "arXiv 2305.00586"
    closed: ClassVar = True
    measure: ClassVar = "prob_diff"

    def pairs(self, tokenizer: Any, seed: int) -> list[PromptPair]:
        self.need(tokenizer)
        nouns = [noun for noun in NOUNS if is_known(tokenizer, f"The {noun} lasted from the year")]
        splitting = find_splitting(tokenizer, nouns[0]) if nouns else None
        if splitting is None:
            raise PromptError(
                "task greater_than: this tokenizer writes years neither as 17|32 nor as '17 32' nor by "
                "digits, or does not know the words; give your own pairs with {name: file, path: ...}"
            )
        return [
            self.drawn(seed, index, partial(self._pair, splitting, nouns, index))
            for index in range(self.count)
        ]

    def truth(self, graph: Graph, model: str) -> tuple[str, ...] | None:
        """The circuit of GPT-2 small (`published`)."""
        return published.greater_than(graph, model)

    def _pair(
        self, splitting: Splitting, nouns: list[str], index: int, rng: np.random.Generator
    ) -> PromptPair:
        stems = list(splitting.token)
        stem = stems[rng.integers(len(stems))]
        tokens = splitting.token[stem]
        # Not the lowest (it is the corrupted prompt's) and not the highest (nothing is above it).
        years = sorted(tokens)
        year = years[years.index(splitting.lowest) + 1 : -1]
        ending = year[rng.integers(len(year))]
        noun = nouns[rng.integers(len(nouns))]

        def write(first: str) -> tuple[str, dict[str, tuple[int, int]]]:
            year = f"{stem}{splitting.joint}{first}"
            return written(SENTENCE, {"noun": noun, "year": year, "stem": stem})

        clean, places = write(ending)
        first, end = places["year"]
        return PromptPair(
            clean=clean,
            corrupted=write(splitting.lowest)[0],
            answers=tuple(tokens[y] for y in years if y > ending),
            wrong_answers=tuple(tokens[y] for y in years if y <= ending),
            source=f"{self.id} prompt {index}",
            bos=self.bos,
            spans={
                "noun": places["noun"],
                "year": (first, end),
                "xx": (first, first + len(stem)),
                "yy": (end - len(ending), end),
                "end": places["stem"],
            },
        )


def find_splitting(tokenizer: Any, noun: str) -> Splitting | None:
    """How this tokenizer writes years, or None when it is none of the ways known here."""
    pairs = [f"{n:02d}" for n in range(100)]
    digits = [str(n) for n in range(10)]
    decades = [f"{century}{digit}" for century in CENTURIES for digit in digits]
    ways = (
        ("", "01", CENTURIES, pairs, 20),
        (" ", "01", CENTURIES, pairs, 20),
        ("", "0", decades, digits, 10),
    )
    for joint, lowest, stems, endings, needed in ways:
        found = {stem: _endings(tokenizer, noun, stem, joint, lowest, endings) for stem in stems}
        token = {stem: tokens for stem, tokens in found.items() if len(tokens) >= needed}
        if token:
            return Splitting(joint, lowest, token)
    return None


def _endings(
    tokenizer: Any, noun: str, stem: str, joint: str, lowest: str, endings: list[str]
) -> dict[str, int]:
    """The endings that are one known token after the stem, both as the first year and as the answer.

    Empty where the corrupted prompt's ending is not among them.
    """

    def write(ending: str) -> str:
        return SENTENCE.format(noun=noun, year=f"{stem}{joint}{ending}", stem=stem)

    # With the corrupted prompt's parts known, each ending needs one look: start, ending, middle, ending.
    start = encode(tokenizer, write(lowest).partition(f"{joint}{lowest} to")[0])
    year = encode(tokenizer, write(lowest).partition(" to")[0])
    prompt = encode(tokenizer, write(lowest))
    middle = prompt[len(year) :]
    unknown = getattr(tokenizer, "unk_token_id", None)
    found: dict[str, int] = {}

    def look(endings: list[str]) -> None:
        for ending, read in zip(
            endings, encode_all(tokenizer, [f"{write(e)}{joint}{e}" for e in endings]), strict=True
        ):
            token = read.ids[-1]
            is_new = token != unknown and token not in found.values()
            if is_new and read.ids == (*start, token, *middle, token):
                found[ending] = token

    if prompt[: len(year)] == year:
        look([lowest])
    if found:
        look(endings)
    return found
