"""A word in other letters, in context (Todd et al., arXiv 2310.15213: capitalisation).

    Lower: time Upper: TIME
    Lower: food Upper:  ->  FOOD

Knows words and how to capitalise them. Does not know which of them a tokenizer has both ways.
"""

from typing import ClassVar, Literal

from pydantic import Field

from pipeline.tasks.base import listed
from pipeline.tasks.induction import WORDS
from pipeline.tasks.relation import Relation

MORE = listed("""
    able about after age air am any art as at back because best both but by call can care case change club code come
    cost data date days delete did do does error even every file first for free from get give go group has have head
    health help here home how image info insert into is it just key kind know last less let life like list live love
    made main make man map may me more most must name national new news next no null number of on one only open or
    order our over part people plan power public real right role say science see select service set she show site so
    some state step stop table take test text than that their these this type united up use user value view was way
    well what when where which who why will work year yes you your
    """)


class UpperCase(Relation):
    """`count` prompts that ask for a word in capital letters (`letters: first`: with one), after `shots` others.

    Corruption: another word (`subject`), or the shots' answers exchanged (`shuffled`).
    """

    name: Literal["upper_case"] = "upper_case"
    letters: Literal["all", "first"] = "all"
    shots: int = Field(default=5, ge=0, le=50)

    paper: ClassVar = "arXiv 2310.15213"
    sentences: ClassVar = (("Lower: {x} Upper: {y}", "\n"),)

    @property
    def known(self) -> tuple[tuple[str, str], ...]:
        words = (word for word in dict.fromkeys((*WORDS, *MORE)) if len(word) > 1)
        return tuple((word, word.upper() if self.letters == "all" else word.capitalize()) for word in words)
