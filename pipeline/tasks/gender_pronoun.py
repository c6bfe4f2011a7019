"""The pronoun of a name (Mathwin et al., "Identifying a preliminary circuit for predicting gendered pronouns", 2023).

    My friend Sarah went home because  ->  she

The paper's sentence is "So Sarah is a really great friend, isn't".
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np

from pipeline.tasks.frames import Filling, FramedTask, Lexicon, Writer, choice
from pipeline.tasks.people import MEN, WOMEN


class GenderPronoun(FramedTask):
    """`count` prompts about somebody with a woman's or a man's name; the answer is "she" or "he".

    Corruption: a name of the other gender, whose pronoun is the wrong answer. Spans: `name` and `end`.
    """

    name: Literal["gender_pronoun"] = "gender_pronoun"

    paper: ClassVar = "Mathwin et al., 2023"
    closed: ClassVar = True

    def frames(self) -> Sequence[str]:
        return (
            "My friend {name} went home because {pronoun.answer}",
            "My friend {name} was happy because {pronoun.answer}",
            "My neighbor {name} is tired because {pronoun.answer}",
            "My teacher {name} left early because {pronoun.answer}",
        )

    def lists(self) -> Mapping[str, Sequence[str]]:
        return {"name": (*WOMEN, *MEN), "pronoun": ("she", "he")}

    def writer(self, lexicon: Lexicon) -> Writer:
        women, men = ([name for name in names if lexicon.has("name", name)] for names in (WOMEN, MEN))
        self.too_few(lexicon, "name", 2, 2 * min(1, len(women), len(men)))

        def draw(rng: np.random.Generator) -> Filling:
            right, wrong = ((women, "she"), (men, "he"))[:: int(rng.choice((1, -1)))]
            names = {"name": choice(rng, right[0])}, {"name": choice(rng, wrong[0])}
            return Filling(choice(rng, lexicon.frames), *names, (right[1],), (wrong[1],))

        return draw
