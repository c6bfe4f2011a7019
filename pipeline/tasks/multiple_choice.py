"""A fact, and four answers to choose from (copycolors of MIB, arXiv 2504.13151; Lieberum et al., arXiv 2307.09458).

A box is brown. What color is the box?  A. gray  B. black  C. white  D. brown  Answer:  ->  D
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np

from pipeline.tasks.base import listed, pick
from pipeline.tasks.frames import Filling, FramedTask, Lexicon, Writer, choice

COLOURS = listed("red blue green brown black white yellow purple pink gray golden silver")
THINGS = listed(
    "box cup book car door hat shirt chair table ball bag coat boat house wall flag phone lamp bowl pen ring"
)
LETTERS = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")


class MultipleChoice(FramedTask):
    """`count` questions about the colour of a thing, which the prompt tells, and four choices; the answer is a letter.

    Corruption: `position` the right colour changes places with another choice, whose letter is the wrong answer;
    `letters` four other letters stand before the choices, and the wrong answer is the one at the right place.
    Spans: `thing`, `fact`, `asked`, `l0` to `l3` the letters, `c0` to `c3` the colours, and `end`.
    """

    name: Literal["multiple_choice"] = "multiple_choice"
    corruption: Literal["position", "letters"] = "position"

    paper: ClassVar = "arXiv 2504.13151"
    closed: ClassVar = True

    def frames(self) -> Sequence[str]:
        choices = "\n".join(f"{{letter.l{i}}}. {{colour.c{i}}}" for i in range(4))
        return (
            "A {thing.thing} is {colour.fact}. What color is the {thing.asked}?\n"
            + choices
            + "\nAnswer: {letter.answer}",
        )

    def lists(self) -> Mapping[str, Sequence[str]]:
        return {"thing": THINGS, "colour": COLOURS, "letter": LETTERS}

    def writer(self, lexicon: Lexicon) -> Writer:
        letters = lexicon.words("letter")
        self.too_few(lexicon, "letter", 8 if self.corruption == "letters" else 4)
        self.too_few(lexicon, "colour", 4)
        usual = letters[:4]

        def draw(rng: np.random.Generator) -> Filling:
            thing, colours = choice(rng, lexicon.words("thing")), pick(rng, lexicon.words("colour"), 4)
            right, other = (int(i) for i in rng.choice(4, size=2, replace=False))
            clean = {"thing": thing, "asked": thing, "fact": colours[right]}
            clean |= {f"l{i}": letter for i, letter in enumerate(usual)}
            clean |= {f"c{i}": colour for i, colour in enumerate(colours)}
            if self.corruption == "position":
                exchanged = {f"c{right}": colours[other], f"c{other}": colours[right]}
                wrong = usual[other]
            else:
                new = pick(rng, letters[4:], 4)
                exchanged = {f"l{i}": letter for i, letter in enumerate(new)}
                wrong = new[right]
            return Filling(choice(rng, lexicon.frames), clean, exchanged, (usual[right],), (wrong,))

        return draw
