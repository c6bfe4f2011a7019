"""Three things with colours, and a question about one (Merullo et al., arXiv 2310.08744; BIG-bench's coloured objects).

On the table, I see a red cup, a blue book and a green pen. The color of the book is  ->  blue
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np

from pipeline.core.graph import Graph
from pipeline.tasks import published
from pipeline.tasks.base import pick
from pipeline.tasks.frames import Filling, FramedTask, Lexicon, Writer, choice
from pipeline.tasks.multiple_choice import COLOURS, THINGS


class ColouredObjects(FramedTask):
    """`count` prompts with three coloured things, one of which is asked about; the answer is its colour.

    Corruption: `asked` another of the three is asked about, whose colour is the wrong answer; `colours` the asked thing
    and another exchange their colours, with the same wrong answer.
    Spans: `c0`, `o0` ... colour and name of the things, `asked`, and `end`.
    """

    name: Literal["coloured_objects"] = "coloured_objects"
    corruption: Literal["asked", "colours"] = "asked"

    paper: ClassVar = "arXiv 2310.08744"

    def truth(self, graph: Graph, model: str) -> tuple[str, ...] | None:
        """The heads of the circuit of GPT-2 medium (`published`)."""
        return published.coloured_objects(graph, model)

    def frames(self) -> Sequence[str]:
        things = "a {colour.c0} {thing.o0}, a {colour.c1} {thing.o1} and a {colour.c2} {thing.o2}"
        return tuple(
            f"{start} {things}. The color of the {{thing.asked}} is {{colour.answer}}"
            for start in ("On the table, I see", "On the floor, there is")
        )

    def lists(self) -> Mapping[str, Sequence[str]]:
        return {"thing": THINGS, "colour": COLOURS}

    def writer(self, lexicon: Lexicon) -> Writer:
        for kind in ("thing", "colour"):
            self.too_few(lexicon, kind, 3)

        def draw(rng: np.random.Generator) -> Filling:
            things, colours = (pick(rng, lexicon.words(kind), 3) for kind in ("thing", "colour"))
            right, other = (int(i) for i in rng.choice(3, size=2, replace=False))
            clean = {f"o{i}": thing for i, thing in enumerate(things)}
            clean |= {f"c{i}": colour for i, colour in enumerate(colours)}
            clean["asked"] = things[right]
            if self.corruption == "asked":
                exchanged = {"asked": things[other]}
            else:
                exchanged = {f"c{right}": colours[other], f"c{other}": colours[right]}
            return Filling(
                choice(rng, lexicon.frames), clean, exchanged, (colours[right],), (colours[other],)
            )

        return draw
