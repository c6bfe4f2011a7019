"""Memorised text against a perturbed prefix (Stoehr et al., arXiv 2403.19851).

    Four score and seven years ago our fathers brought forth on this  ->  continent

Knows the beginnings of passages that are in the public domain, each with the words that may be exchanged.
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np

from pipeline.tasks.base import pick
from pipeline.tasks.frames import Filling, FramedTask, Lexicon, Writer, choice
from pipeline.tasks.induction import WORDS

# The words in brackets are exchanged; the last word is the answer.
PASSAGES = (
    "To [be], or not to be: that is the question",
    "Four score and seven [years] ago our [fathers] brought forth on this continent",
    "We hold these [truths] to be self-evident, that all [men] are created equal",
    "It was the [best] of times, it was the [worst] of times",
    "In the [beginning] God created the heaven and the earth",
    "The Lord is my [shepherd]; I shall not want",
    "Our [Father] which art in [heaven], hallowed be thy name",
    "Shall I [compare] thee to a summer's day",
    "Mary had a little [lamb], its fleece was white as snow",
    "Twinkle, twinkle, little [star], how I wonder what you are",
    "Row, row, row your [boat], gently down the stream",
    "Humpty Dumpty sat on a [wall], Humpty Dumpty had a great fall",
    "Jack and Jill went up the [hill] to fetch a pail of water",
    "London [Bridge] is falling down",
    "O say can you see, by the [dawn]'s early light",
    "We the [People] of the United States, in order to form a more perfect Union",
    "I pledge [allegiance] to the flag of the United States of America",
    "government of the [people], by the people, for the people",
    "An [apple] a day keeps the doctor away",
    "A [bird] in the hand is worth two in the bush",
    "Early to [bed] and early to [rise], makes a man healthy, wealthy, and wise",
    "The early [bird] catches the worm",
    "Actions [speak] louder than words",
    "When in [Rome], do as the Romans do",
    "You can lead a [horse] to water, but you can't make it drink",
    "Don't count your [chickens] before they hatch",
    "Ask not what your [country] can do for you",
    "Thirty days hath [September], April, June, and November",
    "Once upon a [midnight] dreary, while I pondered, weak and weary",
    "Romeo, [Romeo]! wherefore art thou Romeo",
)


COMMON = WORDS[::3]


class Verbatim(FramedTask):
    """`count` beginnings of well-known passages; the answer is the passage's next word.

    Corruption: the words that a passage turns on by others; the wrong answer is the next word of another passage.
    Spans: the exchanged words by their place, `w0`, `w1`, and `end`.
    """

    name: Literal["verbatim"] = "verbatim"

    paper: ClassVar = "arXiv 2403.19851"

    def frames(self) -> Sequence[str]:
        return tuple(_frame(passage) for passage in PASSAGES)

    def lists(self) -> Mapping[str, Sequence[str]]:
        own = [word for passage in PASSAGES for word in _exchanged(passage)]
        return {"word": (*own, *COMMON), "last": [_last(passage) for passage in PASSAGES]}

    def writer(self, lexicon: Lexicon) -> Writer:
        known = [
            passage
            for passage in PASSAGES
            if _frame(passage) in lexicon.frames
            and lexicon.has("word", *_exchanged(passage))
            and lexicon.has("last", _last(passage))
        ]
        common = [word for word in COMMON if lexicon.has("word", word)]
        self.too_few(lexicon, "last", 2, len(known))
        self.too_few(lexicon, "word", 2, len(common))

        def draw(rng: np.random.Generator) -> Filling:
            passage = choice(rng, known)
            own = _exchanged(passage)
            clean = {f"w{i}": word for i, word in enumerate(own)}
            others = pick(rng, [word for word in common if word not in own], len(own))
            wrong = choice(rng, [end for one in known if (end := _last(one)) != _last(passage)])
            exchanged = {f"w{i}": word for i, word in enumerate(others)}
            return Filling(_frame(passage), clean, exchanged, (_last(passage),), (wrong,))

        return draw


def _exchanged(passage: str) -> list[str]:
    return re.findall(r"\[(\w+)\]", passage)


def _last(passage: str) -> str:
    return passage.rpartition(" ")[2]


def _frame(passage: str) -> str:
    number = itertools.count()
    slots = re.sub(r"\[\w+\]", lambda _: f"{{word.w{next(number)}}}", passage)
    return f"{slots.rpartition(' ')[0]} {{last.answer}}"
