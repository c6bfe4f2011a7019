"""In-context classification with arbitrary labels (Singh et al., arXiv 2404.07129: induction studied by clamping).

    The river is red. The music is blue. The music is  ->  blue

The label of an item is in the prompt and nowhere else: what is needed is to find the item and to copy its label.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from pipeline.tasks.base import listed, pick
from pipeline.tasks.frames import Filling, FramedTask, Lexicon, Writer, choice
from pipeline.tasks.induction import WORDS

LABELS = listed("red blue green gold north south summer winter iron wood left right up down one two")

ITEMS = tuple(word for word in WORDS[WORDS.index("head") : WORDS.index("black")] if word not in LABELS)


class LabelCopy(FramedTask):
    """`count` prompts of `items` words with a label each, and one of the words again; the answer is its label.

    Corruption: `labels` the asked item and another exchange their labels; `items` the two exchange places, labels
    stay; `asked` the other is asked about. The wrong answer is the other's label.
    Spans: `x0`, `y0` ... items and their labels, `asked`, and `end`.
    """

    name: Literal["label_copy"] = "label_copy"
    items: int = Field(default=2, ge=2, le=16)
    corruption: Literal["labels", "items", "asked"] = "labels"

    paper: ClassVar = "arXiv 2404.07129"
    closed: ClassVar = True

    def frames(self) -> Sequence[str]:
        shown = [f"The {{item.x{i}}} is {{label.y{i}}}." for i in range(self.items)]
        return (" ".join([*shown, "The {item.asked} is {label.answer}"]),)

    def lists(self) -> Mapping[str, Sequence[str]]:
        return {"item": ITEMS, "label": LABELS}

    def writer(self, lexicon: Lexicon) -> Writer:
        n = self.items
        for kind in ("item", "label"):
            found = len(lexicon.words(kind))
            self.too_few(lexicon, kind, n, mend=f"use items: {found} or less," if found > 1 else "")

        def draw(rng: np.random.Generator) -> Filling:
            words, labels = (pick(rng, lexicon.words(kind), n) for kind in ("item", "label"))
            right, other = (int(i) for i in rng.choice(n, size=2, replace=False))
            clean = {f"x{i}": word for i, word in enumerate(words)}
            clean |= {f"y{i}": label for i, label in enumerate(labels)} | {"asked": words[right]}
            exchanged = {
                "labels": {f"y{right}": labels[other], f"y{other}": labels[right]},
                "items": {f"x{right}": words[other], f"x{other}": words[right]},
                "asked": {"asked": words[other]},
            }[self.corruption]
            return Filling(choice(rng, lexicon.frames), clean, exchanged, (labels[right],), (labels[other],))

        return draw
