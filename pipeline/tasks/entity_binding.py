"""Who has what: entities bound to attributes in context (Feng and Steinhardt, arXiv 2310.17191).

The apple is in the box, the key is in the bag and the ball is in the cup. The key is in the  ->  bag
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from pipeline.tasks.base import listed, pick
from pipeline.tasks.frames import Filling, FramedTask, Lexicon, Writer, choice

THINGS = listed(
    "apple key ball ring coin book pen letter watch map stone toy hat bread cake phone doll flower camera knife"
)
PLACES = listed(
    "box bag cup basket drawer car garden kitchen office garage closet barn tent boat truck tower attic bowl"
)


class EntityBinding(FramedTask):
    """`count` prompts that put `bindings` things into places and ask where one is; the answer is its place.

    Corruption: `swap` the asked thing and another exchange their places; `asked` the other is asked about. The wrong
    answer is the other's place in both. Spans: `e0`, `p0` ... the things and their places, `asked`, and `end`.
    """

    name: Literal["entity_binding"] = "entity_binding"
    bindings: int = Field(default=3, ge=2, le=8)
    corruption: Literal["swap", "asked"] = "swap"

    paper: ClassVar = "arXiv 2310.17191"

    def frames(self) -> Sequence[str]:
        told = [f"the {{thing.e{i}}} is in the {{place.p{i}}}" for i in range(self.bindings)]
        text = f"{', '.join(told[:-1])} and {told[-1]}"
        return (
            f"I know that {text}. The {{thing.asked}} is in the {{place.answer}}",
            f"We see that {text}. The {{thing.asked}} is in the {{place.answer}}",
        )

    def lists(self) -> Mapping[str, Sequence[str]]:
        return {"thing": THINGS, "place": PLACES}

    def writer(self, lexicon: Lexicon) -> Writer:
        for kind in ("thing", "place"):
            self.too_few(lexicon, kind, self.bindings)
        n = self.bindings

        def draw(rng: np.random.Generator) -> Filling:
            things, places = (pick(rng, lexicon.words(kind), n) for kind in ("thing", "place"))
            right, other = (int(i) for i in rng.choice(n, size=2, replace=False))
            clean = {f"e{i}": thing for i, thing in enumerate(things)}
            clean |= {f"p{i}": place for i, place in enumerate(places)} | {"asked": things[right]}
            if self.corruption == "swap":
                exchanged = {f"p{right}": places[other], f"p{other}": places[right]}
            else:
                exchanged = {"asked": things[other]}
            return Filling(choice(rng, lexicon.frames), clean, exchanged, (places[right],), (places[other],))

        return draw
