"""The next in a series everybody knows (Gould et al., arXiv 2312.09230).

    Monday, Tuesday, Wednesday,  ->  Thursday

Knows series and how they are continued. `given: 1` is the paper's setting: one item, and what comes after it.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from pipeline.tasks.base import listed
from pipeline.tasks.frames import Filling, FramedTask, Lexicon, Writer, choice

DAYS = listed("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
MONTHS = listed("January February March April May June July August September October November December")
NUMBERS = listed("""
    one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
    eighteen nineteen twenty
""")
ORDINALS = listed("first second third fourth fifth sixth seventh eighth ninth tenth")
LETTERS = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
SERIES = (DAYS, MONTHS, NUMBERS, ORDINALS, LETTERS)


class Successor(FramedTask):
    """`count` prompts with `given` items of a series in order; the answer is the one after them.

    Corruption: as many items from another place of the same series; the wrong answer is what follows those.
    Spans: `i0`, `i1` ... the items, and `end`.
    """

    name: Literal["successor"] = "successor"
    given: int = Field(default=3, ge=1, le=5)

    paper: ClassVar = "arXiv 2312.09230"

    def frames(self) -> Sequence[str]:
        items = [f"{{item.i{i}}}" for i in range(self.given)]
        if self.given == 1:
            return (
                f"What comes after {items[0]} is {{item.answer}}",
                f"The one after {items[0]} is {{item.answer}}",
            )
        return (
            f"Next in line: {', '.join(items)}, {{item.answer}}",
            f"In order: {', '.join(items)}, {{item.answer}}",
            f"One after the other: {', '.join(items)}, {{item.answer}}",
        )

    def lists(self) -> Mapping[str, Sequence[str]]:
        return {"item": [word for series in SERIES for word in series]}

    def writer(self, lexicon: Lexicon) -> Writer:
        runs = [
            [
                run
                for start in range(len(series) - self.given)
                if lexicon.has("item", *(run := series[start : start + self.given + 1]))
            ]
            for series in SERIES
        ]
        runs = [found for found in runs if len(found) > 1]
        if not runs:
            self.too_few(lexicon, "item", self.given + 2, 0, "use given: 1" if self.given > 1 else "")

        shares = np.asarray([len(found) for found in runs]) / sum(map(len, runs))

        def draw(rng: np.random.Generator) -> Filling:
            # each run as likely: short series give few prompts
            series = runs[int(rng.choice(len(runs), p=shares))]
            first, other = (series[i] for i in rng.choice(len(series), size=2, replace=False))
            clean, exchanged = ({f"i{i}": word for i, word in enumerate(run[:-1])} for run in (first, other))
            return Filling(choice(rng, lexicon.frames), clean, exchanged, (first[-1],), (other[-1],))

        return draw
