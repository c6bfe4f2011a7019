"""Relations between words, zero-shot or in context: a table of pairs, a sentence, and a question about one more.

    Today I go, yesterday I went. Today I see, yesterday I  ->  saw

Knows how shots and question are put together and what the corrupted prompt exchanges. Does not know any relation: each
is a table and its sentences in a file of its own.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from pipeline.tasks.base import pick
from pipeline.tasks.frames import Filling, FramedTask, Lexicon, Sizes, Writer, choice

Table = tuple[tuple[str, str], ...]


def table(text: str) -> Table:
    """Pairs written as "left right" one after the other, `_` for a space within a word."""
    words = [word.replace("_", " ") for word in text.split()]
    return tuple(zip(words[::2], words[1::2], strict=True))


class Relation(FramedTask):
    """`shots` pairs of the relation, and the left side of one more; the answer is its right side.

    `corruption` says what the corrupted prompt exchanges:
    `subject` what is asked about, for one of as many tokens and another answer, which is the wrong answer;
    `shuffled` the right sides of the shots among each other, so that nothing shows the relation; the wrong answer is
    the right side of a pair that is not there.
    Spans: `subject`, `x0`, `y0`, `x1` ... the sides of the shots, and `end`.
    """

    shots: int = Field(default=3, ge=0, le=50)
    corruption: Literal["subject", "shuffled"] = "subject"

    sentences: ClassVar[Table] = ()  # each with {x} and {y}, and beside it what separates two shots
    pairs_known: ClassVar[Table] = ()
    several: ClassVar[frozenset[str]] = frozenset({"subject"})

    @model_validator(mode="after")
    def _shuffles_something(self) -> "Relation":
        if self.corruption == "shuffled" and self.shots < 2:
            raise ValueError(
                "corruption: shuffled exchanges the answers of at least 2 shots; use shots: 2 or more"
            )
        return self

    @property
    def known(self) -> Table:
        """The pairs of the relation; a subclass whose options choose them overrides this."""
        return self.pairs_known

    @property
    def spoken(self) -> Table:
        """The sentences, likewise."""
        return self.sentences

    @property
    def constant(self) -> frozenset[str]:
        return frozenset({"object"} if self.corruption == "subject" else ())

    def frames(self) -> Sequence[str]:
        found = []
        for sentence, between in self.spoken:
            shots = [
                sentence.replace("{x}", f"{{subject.x{i}}}").replace("{y}", f"{{object.y{i}}}")
                for i in range(self.shots)
            ]
            asked = sentence[: sentence.index("{y}")].replace("{x}", "{subject.subject}") + "{object.answer}"
            found.append(between.join([*shots, asked]))
        return found

    def lists(self) -> Mapping[str, Sequence[str]]:
        return {
            "subject": [x for x, _ in self.known],
            "object": list(dict.fromkeys(y for _, y in self.known)),
        }

    def writer(self, lexicon: Lexicon) -> Writer:
        known = [(x, y) for x, y in self.known if lexicon.has("subject", x) and lexicon.has("object", y)]
        alike: dict[Sizes, list[tuple[str, str]]] = {}  # what may be exchanged for each other
        for pair in known:
            alike.setdefault(lexicon.sizes["subject"][pair[0]], []).append(pair)
        asked = [pair for group in alike.values() if len({y for _, y in group}) > 1 for pair in group]
        most = sum(n for _, n in Counter(y for _, y in known).most_common(2))
        rest = len(known) - most  # beside any two with other answers
        if not asked or rest < self.shots:
            mend = f"use shots: {rest}" if asked else "use another model"
            needed = self.shots + (len(known) - rest if asked else 2)
            self.too_few(lexicon, "object", needed, len(known), f"{mend}{' or less' if rest else ''},")

        def draw(rng: np.random.Generator) -> Filling:
            x, y = choice(rng, asked)
            group = alike[lexicon.sizes["subject"][x]]
            a, b = choice(rng, [pair for pair in group if pair[1] != y])
            shown = pick(rng, [pair for pair in known if pair[1] not in (y, b)], self.shots)
            clean = {"subject": x} | {
                f"{side}{i}": word
                for i, pair in enumerate(shown)
                for side, word in zip("xy", pair, strict=True)
            }
            if self.corruption == "subject":
                exchanged = {"subject": a}
            else:
                order = rng.permutation(self.shots)
                exchanged = {f"y{order[i]}": shown[order[i - 1]][1] for i in range(self.shots)}
            return Filling(choice(rng, lexicon.frames), clean, exchanged, (y,), (b,))

        return draw
