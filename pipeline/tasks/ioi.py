"""Indirect object identification (Wang et al., arXiv 2211.00593).

    When Mary and John went to the store, John gave a drink to  ->  Mary, not John

Knows templates, names and corruptions. Does not know tokenizers: names that are not one token are left out,
and so are templates with unknown words.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import field_validator

from pipeline.core.errors import PromptError
from pipeline.core.graph import Graph
from pipeline.core.prompts import PromptPair
from pipeline.core.ways import Way
from pipeline.tasks import published
from pipeline.tasks.base import GeneratedTask, is_known, last_word, next_word, one_token_words, pick, written

# {0} and {1} are the two names as introduced, {s} is the one repeated; no prompt begins with a name, because
# many tokenizers write a word without the space before it differently.
TEMPLATES = (
    "Then, {0} and {1} went to the {place}. {s} gave a {object} to",
    "When {0} and {1} went to the {place}, {s} gave a {object} to",
    "Then, {0} and {1} had a lot of fun at the {place}. {s} gave a {object} to",
    "After {0} and {1} went to the {place}, {s} gave a {object} to",
    "While {0} and {1} were working at the {place}, {s} gave a {object} to",
    "Then, {0} and {1} were thinking about going to the {place}. {s} wanted to give a {object} to",
    "When {0} and {1} got a {object} at the {place}, {s} decided to give it to",
    "After the lunch, {0} and {1} went to the {place}. {s} gave a {object} to",
    "Afterwards, {0} and {1} went to the {place}. {s} gave a {object} to",
    "The {place} that {0} and {1} went to had a {object}. {s} gave it to",
)
PLACES = ("store", "garden", "restaurant", "school", "hospital", "office", "house", "station", "park", "lake")
OBJECTS = ("ring", "kiss", "bone", "basketball", "computer", "necklace", "drink", "snack", "ball", "cake")
_NAMES = """
    Michael Christopher Jessica Matthew Ashley Jennifer Joshua Amanda Daniel David James Robert John
    Joseph Andrew Ryan Brandon Jason Justin Sarah William Jonathan Stephanie Brian Nicole Nicholas
    Anthony Heather Eric Elizabeth Adam Megan Melissa Kevin Steven Thomas Timothy Christina Kyle Rachel
    Laura Lauren Amber Brittany Danielle Richard Kimberly Jeffrey Amy Crystal Michelle Tiffany Jeremy
    Benjamin Mark Emily Aaron Charles Rebecca Jacob Stephen Patrick Sean Erin Jamie Kelly Samantha
    Nathan Sara Dustin Paul Angela Tyler Scott Katherine Andrea Gregory Erica Mary Travis Lisa Kenneth
    Bryan Lindsey Kristen Jose Alexander Jesse Katie Lindsay Shannon Vanessa Courtney Christine Alicia
    Cody Allison Bradley Samuel Tom Lily Tim Timmy Ben Sam Sue Max Anna Mia Lucy Jack Bob Jane Sally
    Emma
"""
NAMES = tuple(_NAMES.split())


@dataclass(frozen=True)
class Words:
    """What one tokenizer can write of the lists above."""

    names: list[str]
    places: list[str]
    objects: list[str]
    frames: list[str]


class Ioi(GeneratedTask):
    """`count` prompts with two names, one repeated; the answer is the other, the wrong answer the repeated.

    `corruption` says what the corrupted prompt replaces:
    `abc` all three names by three unrelated ones (the paper's), `s2_io_flip` the repeated name by the other,
    so that the answer flips (MIB's default; `s2_flip` is another word for it), `s2_third` the repeated name by a third
    (EAP-IG's `corrupted`), `random_names` all three by others that repeat in the same way (MIB's).
    `order` says which name comes first: the answer (abba), the repeated one (baba), or either (mixed).
    Spans: `io` the name that is the answer, `s1` and `s2` the repeated one where it comes first and again,
    `s1_next` the word after `s1`, `end` the last word.
    """

    ways = (
        Way("last", "io", "name mover"),
        Way("last", "s2", "S-inhibition head"),
        Way("s2", "s1", "duplicate token head"),
        Way("s2", "s1_next", "induction head"),
        Way("s1_next", "s1", "previous token head"),
    )

    name: Literal["ioi"] = "ioi"
    paper: ClassVar = "arXiv 2211.00593"
    corruption: Literal["abc", "s2_io_flip", "s2_third", "random_names", "s2_flip"] = "abc"
    order: Literal["mixed", "abba", "baba"] = "mixed"

    @field_validator("corruption")
    @classmethod
    def _one_word_each(cls, corruption: str) -> str:
        return "s2_io_flip" if corruption == "s2_flip" else corruption

    def pairs(self, tokenizer: Any, seed: int) -> list[PromptPair]:
        self.need(tokenizer)
        words = self._words(tokenizer)
        return [self.drawn(seed, index, partial(self._pair, words, index)) for index in range(self.count)]

    def truth(self, graph: Graph, model: str) -> tuple[str, ...] | None:
        """The circuit of GPT-2 small (`published`), found where all names are exchanged: under `s2_io_flip` and
        `s2_third` those of its edges that carry only what stays have no effect."""
        return published.ioi(graph, model)

    def _words(self, tokenizer: Any) -> Words:
        names = list(one_token_words(tokenizer, NAMES, before="Then,"))
        needed = {"abc": 5, "s2_io_flip": 2, "s2_third": 3, "random_names": 4}[self.corruption]
        if len(names) < needed:
            mend = "use corruption: s2_io_flip," if len(names) >= 2 else "use another model"
            raise self.short_of(len(names), len(NAMES), needed, "names", mend)
        places = [place for place in PLACES if is_known(tokenizer, f"the {place}")]
        things = [thing for thing in OBJECTS if is_known(tokenizer, f"a {thing}")]
        frames = [t for t in TEMPLATES if is_known(tokenizer, _filled(t, names[0]))]
        if not (places and things and frames):
            raise PromptError(
                f"task ioi: this tokenizer does not know the words of the templates ({len(places)} places, "
                f"{len(things)} objects, {len(frames)} sentences); give your own pairs with "
                "{name: file, path: ...}"
            )
        return Words(names, places, things, frames)

    def _pair(self, words: Words, index: int, rng: np.random.Generator) -> PromptPair:
        frame = words.frames[rng.integers(len(words.frames))]
        fill = {
            "place": words.places[rng.integers(len(words.places))],
            "object": words.objects[rng.integers(len(words.objects))],
        }
        answer_first = self.order == "abba" or (self.order == "mixed" and bool(rng.integers(2)))
        answer, subject, *others = pick(rng, words.names, min(5, len(words.names)))

        io_gap, s1_gap = ("0", "1") if answer_first else ("1", "0")

        def write(io: str, s1: str, s2: str) -> tuple[str, dict[str, tuple[int, int]]]:
            return written(frame, {io_gap: io, s1_gap: s1, "s": s2, **fill})

        clean, places = write(answer, subject, subject)
        corrupted, _ = {
            "abc": lambda: write(*others[:3]),
            "s2_io_flip": lambda: write(answer, subject, answer),
            "s2_third": lambda: write(answer, subject, others[0]),
            "random_names": lambda: write(others[0], others[1], others[1]),
        }[self.corruption]()
        return PromptPair(
            clean=clean,
            corrupted=corrupted,
            answers=(f" {answer}",),
            wrong_answers=(f" {subject}",),
            source=f"{self.id} prompt {index}",
            bos=self.bos,
            spans={
                "io": places[io_gap],
                "s1": places[s1_gap],
                "s1_next": next_word(clean, places[s1_gap][1]),
                "s2": places["s"],
                "end": last_word(clean),
            },
        )


def _filled(frame: str, word: str) -> str:
    """The template with one known word in every gap, to see whether its other words are known."""
    return frame.format(word, word, s=word, place=word, object=word)
