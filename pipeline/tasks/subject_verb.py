"""Agreement of subject and verb, with a noun in between (Lazo et al., arXiv 2506.22105; Finlayson et al., 2106.06087).

    Nobody knows where the keys next to the cabinet  ->  are, not is

Knows nouns in both numbers. The noun in between, the attractor, is of the other number where it is to mislead.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np

from pipeline.tasks.base import listed
from pipeline.tasks.frames import Filling, FramedTask, Lexicon, Writer, choice
from pipeline.tasks.relation import table

NOUNS = table("""
    author authors teacher teachers doctor doctors student students farmer farmers worker workers player players
    parent parents girl girls boy boys friend friends king kings queen queens soldier soldiers lawyer lawyers
    driver drivers writer writers singer singers actor actors guard guards officer officers manager managers
    cat cats dog dogs horse horses bird birds car cars boat boats truck trucks train trains house houses tree trees
    book books picture pictures key keys table tables chair chairs door doors window windows box boxes cup cups
    letter letters song songs game games road roads river rivers town towns school schools church churches
""")
# Fit to persons and things, one and many.
ADJECTIVES = listed(
    "old new other first last best big small good same next right wrong great only main final young"
)
SINGULAR, PLURAL = ("is", "was", "has"), ("are", "were", "have")


class SubjectVerb(FramedTask):
    """`count` prompts that end before the verb; answers are the verbs of the subject's number, wrong ones the others'.

    `attractor` is the noun between subject and verb: `none`, of the `opposite` number, or of the `same`.
    Without one, an adjective stands before the subject: prompts enough that few come twice.
    Corruption: the subject in the other number. Spans: `subject`, `attractor` or `adjective`, and `end`.
    """

    name: Literal["subject_verb"] = "subject_verb"
    attractor: Literal["none", "opposite", "same"] = "none"

    paper: ClassVar = "arXiv 2106.06087"
    closed: ClassVar = True

    def frames(self) -> Sequence[str]:
        if self.attractor == "none":
            return (
                "Nobody knows where the {adjective.adjective} {noun.subject} {verb.answer}",
                "Nobody can say how good the {adjective.adjective} {noun.subject} {verb.answer}",
            )
        return (
            "Nobody knows where the {noun.subject} next to the {noun.attractor} {verb.answer}",
            "Nobody can say how good the {noun.subject} near the {noun.attractor} {verb.answer}",
        )

    def lists(self) -> Mapping[str, Sequence[str]]:
        lists = {"noun": [noun for both in NOUNS for noun in both], "verb": (*SINGULAR, *PLURAL)}
        return lists | ({"adjective": ADJECTIVES} if self.attractor == "none" else {})

    def writer(self, lexicon: Lexicon) -> Writer:
        nouns = [both for both in NOUNS if lexicon.has("noun", *both)]
        self.too_few(lexicon, "noun", 4, 2 * len(nouns))
        verbs = [pair for pair in zip(SINGULAR, PLURAL, strict=True) if lexicon.has("verb", *pair)]
        self.too_few(lexicon, "verb", 2, 2 * len(verbs))

        def draw(rng: np.random.Generator) -> Filling:
            subject, other = (nouns[i] for i in rng.choice(len(nouns), size=2, replace=False))
            number = int(rng.integers(2))
            between = {"opposite": 1 - number, "same": number, "none": number}[self.attractor]
            clean = {"subject": subject[number]}
            if self.attractor != "none":
                clean["attractor"] = other[between]
            else:
                clean["adjective"] = choice(rng, lexicon.words("adjective"))
            right, wrong = (tuple(pair[n] for pair in verbs) for n in (number, 1 - number))
            return Filling(choice(rng, lexicon.frames), clean, {"subject": subject[1 - number]}, right, wrong)

        return draw
