"""Induction: a word seen before is followed by what followed it then (Olsson et al., arXiv 2209.11895).

    rain book A B time C D hand A  ->  B

Knows a list of common words and how to arrange them. Does not know which tokenizer writes them.
"""

from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from pipeline.core.graph import Graph
from pipeline.core.prompts import PromptPair
from pipeline.core.ways import Way
from pipeline.models.toy import known_circuit
from pipeline.tasks.base import GeneratedTask, nth_word, one_token_words

# Common words, so that most tokenizers have many of them as one token; the meaning plays no part.
_WORDS = """
    the to and he was it she her his they said in on with had big little very happy friend mom day time
    play saw want named but do there so one for we you that up of be not all out red blue green hand
    head eye foot tree book rain snow wind sun moon star fire water stone river hill sea ship boat car
    road street house door room wall table bed box cup bread milk salt sugar apple bird fish horse cow
    pig cat dog lion bear king queen man woman child boy girl son mother father brother sister doctor
    teacher farmer soldier music song dance game ball toy doll name word letter number line point side
    end part place world country city town school church market shop farm garden field forest mountain
    island bridge tower night morning evening week month year winter spring summer work job money price
    gold silver iron paper glass wood color white black brown long short high low old new young cold hot
    warm soft hard fast slow good bad
"""
WORDS = tuple(_WORDS.split())
PLANTED = "toy:planted"


class Induction(GeneratedTask):
    """`count` prompts of `length` different words and one of them again; the answer is what followed it.

    Two bigrams stand among random words, `A B` and `C D`, and the prompt ends with A: the answer is B, the
    wrong answer D, and both were seen. `corruption` says what the corrupted prompt replaces:
    `exchange` (default) exchanges A with C and B with D everywhere: as good a prompt, with answer D;
    it differs where the word is read, matched and copied, so that each link of the circuit shows;
    `answer` replaces B by an unseen word: only what is copied differs, and that word is the wrong answer;
    `break` replaces the first A by an unseen word: nothing in the prompt says what comes next.
    `repeated` is how many words come again, A as the last of them: a longer stretch is easier to continue.
    Spans: `a`, `b`, `c` and `d`, the words of the two bigrams where they first stand, and `end`, the last word.
    """

    ways = (
        Way("last", "b", "induction head"),
        Way("last", "a", "duplicate token head"),
        Way("b", "a", "previous token head"),
    )

    name: Literal["induction"] = "induction"
    paper: ClassVar = "arXiv 2209.11895"
    length: int = Field(default=10, ge=5, le=100)
    corruption: Literal["exchange", "answer", "break"] = "exchange"
    repeated: int = Field(default=1, ge=1, le=50)

    later: ClassVar = frozenset({"repeated"})

    @model_validator(mode="after")
    def _has_room(self) -> "Induction":
        if self.repeated > self.length - 4:
            raise ValueError(
                f"repeated: {self.repeated} words of {self.length} leave no room for two bigrams; use "
                f"length: {self.repeated + 4} or more"
            )
        return self

    def pairs(self, tokenizer: Any, seed: int) -> list[PromptPair]:
        self.need(tokenizer)
        words = list(one_token_words(tokenizer, WORDS, before="the", after=(" tree", " the", " was")))
        if len(words) < self.length + 1:
            shorter = f"use length: {len(words) - 1} or less," if len(words) >= 6 else "use another model"
            raise self.short_of(len(words), len(WORDS), self.length + 1, "words", shorter)
        return [self.drawn(seed, index, partial(self._pair, words, index)) for index in range(self.count)]

    def truth(self, graph: Graph, model: str) -> tuple[str, ...] | None:
        """The circuit that was planted in `toy:planted`: exact where A and B are exchanged with C and D."""
        if model != PLANTED or self.corruption != "exchange":
            return None
        edges = known_circuit(model)
        return edges if set(edges) <= set(graph.edge_names) else None

    def _pair(self, words: list[str], index: int, rng: np.random.Generator) -> PromptPair:
        *body, unseen = (words[i] for i in rng.choice(len(words), size=self.length + 1, replace=False))
        # The first word is written without a space before it, so it stays the same in both prompts.
        starts = self._bigram_starts(rng.integers, self.length)
        a, c = (int(i) for i in rng.permutation(starts))
        while a < self.repeated:  # the first word is never among those that come again
            a, c = (int(i) for i in rng.permutation(self._bigram_starts(rng.integers, self.length)))
        corrupted = list(body)
        match self.corruption:
            case "exchange":
                corrupted[a : a + 2], corrupted[c : c + 2] = body[c : c + 2], body[a : a + 2]
                last, wrong = body[c], body[c + 1]
            case "answer":
                corrupted[a + 1] = unseen
                last, wrong = body[a], unseen
            case "break":
                corrupted[a] = unseen
                last, wrong = body[a], body[c + 1]
        before = slice(a - self.repeated + 1, a)
        clean = " ".join([*body, *body[before], body[a]])
        place = {"a": a, "b": a + 1, "c": c, "d": c + 1, "end": self.length + self.repeated - 1}
        return PromptPair(
            clean=clean,
            corrupted=" ".join([*corrupted, *corrupted[before], last]),
            answers=(f" {body[a + 1]}",),
            wrong_answers=(f" {wrong}",),
            source=f"{self.id} prompt {index}",
            bos=self.bos,
            spans={name: nth_word(clean, index) for name, index in place.items()},
        )

    @staticmethod
    def _bigram_starts(integers: Any, length: int) -> tuple[int, int]:
        """Where the two bigrams begin: after the first word, not overlapping, all places equally likely."""
        # Two of the length - 3 places that remain when each bigram is drawn together into one.
        free = length - 3
        first = int(integers(free))
        second = int(integers(free - 1))
        low, high = sorted((first, second + (second >= first)))
        return 1 + low, 2 + high
