"""The last letter of an acronym (García-Carrasco et al., arXiv 2405.04156).

    The Royal Garden Team (R.G.  ->  T

Knows words by their first letter. Letters stand apart, by points, so that each is a token for every tokenizer; the
paper's acronyms have none, and its metric is the answer's logit less the highest of the other letters.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np

from pipeline.core.graph import Graph
from pipeline.tasks import published
from pipeline.tasks.base import listed
from pipeline.tasks.frames import Filling, FramedTask, Lexicon, Writer, choice

WORDS = listed("""
    Art Air Animal Business Book Bank Central City Community Data Digital Design East Energy Event Family Food First
    General Garden Global Health House Human International Island Image Japan Justice Kitchen Key Life Language Local
    Music Market Medical National North Network Open Office Ocean Public Power Park Queen Royal Research Road Social
    State School Science Team Training Trade Union United Urban Video Village Water World Women Young Youth
    """)
LETTERS = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")


class Acronym(FramedTask):
    """`count` names of three capitalised words and two letters of their acronym; the answer is the third letter.

    Corruption: `word` the third word by one with another letter, which is the wrong answer; `letters` the two letters
    by others, with another letter as the wrong answer. Spans: `w1`, `w2`, `w3`, `l1`, `l2`, and `end`.
    """

    name: Literal["acronym"] = "acronym"
    corruption: Literal["word", "letters"] = "word"

    paper: ClassVar = "arXiv 2405.04156"

    def truth(self, graph: Graph, model: str) -> tuple[str, ...] | None:
        """The heads of the circuit of GPT-2 small (`published`); its acronyms had no points."""
        return published.acronym(graph, model)

    def frames(self) -> Sequence[str]:
        return ("The {word.w1} {word.w2} {word.w3} ({letter.l1}.{letter.l2}.{letter.answer}",)

    def lists(self) -> Mapping[str, Sequence[str]]:
        return {"word": WORDS, "letter": LETTERS}

    def writer(self, lexicon: Lexicon) -> Writer:
        words = [word for word in lexicon.words("word") if lexicon.has("letter", word[0])]
        initials = sorted({word[0] for word in words})
        self.too_few(lexicon, "word", 4, len(initials))

        def draw(rng: np.random.Generator) -> Filling:
            letters = [initials[i] for i in rng.choice(len(initials), size=4, replace=False)]
            one, two, three, other = (choice(rng, [w for w in words if w[0] == letter]) for letter in letters)
            clean = {"w1": one, "w2": two, "w3": three, "l1": one[0], "l2": two[0]}
            if self.corruption == "word":
                exchanged = {"w3": other}
            else:
                left = [letter for letter in initials if letter not in letters[:3]]
                exchanged = {"l1": choice(rng, left), "l2": other[0]}
            return Filling(choice(rng, lexicon.frames), clean, exchanged, (three[0],), (other[0],))

        return draw
