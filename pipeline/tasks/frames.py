"""Prompts from frames: sentences with slots, words that fit the tokenizer, and what the corrupted prompt exchanges.

    "The {thing.a} is in the {place.b}. The {thing.asked} is in the {place.answer}"

A slot is `{kind.role}`: a word of the list `kind`, by the name `role` that no other slot of the frame has. The prompt
is what stands before the slot `answer`, which ends the frame and shows how an answer is written; each other role is a
span of the prompt, and so is `end`, its last word or sign. A space before the answer is the answer's, but for one with
a bar after it (`= |{digit.answer}`), which ends the prompt: tokenizers that write digits one by one have it so.

Knows frames, lists and how they meet a tokenizer. Does not know behaviours: each says in `writer` which words stand
where. A word counts if it is whole tokens between its neighbours in every frame (one token, but for kinds in
`several`, and for answers where `target` takes more), and exchanging it for one of as many tokens changes nothing else:
clean and corrupted are equally long by construction, and an answer is what the tokenizer writes after the prompt.
"""

import re
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from string import Formatter
from typing import Any, ClassVar

import numpy as np

from pipeline.core.errors import PromptError
from pipeline.core.prompts import PromptPair
from pipeline.models.encoding import encode, encode_all
from pipeline.tasks.base import GeneratedTask, is_known, written

ANSWER = "answer"
_HERE = "|"
Sizes = tuple[int, ...]  # tokens of a word, in each place where its kind stands


@dataclass(frozen=True)
class Filling:
    """What one pair says: the word of every role, those that the corrupted prompt exchanges, and the answers."""

    frame: str
    clean: Mapping[str, str]
    exchanged: Mapping[str, str]
    answers: tuple[str, ...]
    wrong_answers: tuple[str, ...]


@dataclass(frozen=True)
class Lexicon:
    """What one tokenizer can write of a behaviour: its frames, and of each kind the words with their sizes."""

    frames: list[str]
    sizes: Mapping[str, Mapping[str, Sizes]]
    tried: Mapping[str, int] = field(default_factory=dict)

    def words(self, kind: str) -> list[str]:
        """The words of a kind, in the order of its list."""
        return list(self.sizes[kind])

    def has(self, kind: str, *words: str) -> bool:
        return all(word in self.sizes.get(kind, {}) for word in words)

    def alike(self, kind: str, one: str, other: str) -> bool:
        """Whether two words may be exchanged: as many tokens wherever the kind stands."""
        return self.sizes[kind][one] == self.sizes[kind][other]


Writer = Callable[[np.random.Generator], Filling]


class FramedTask(GeneratedTask):
    """A task of frames and lists. A behaviour gives `frames`, `lists`, a `writer` and its `paper`."""

    several: ClassVar[frozenset[str]] = frozenset()  # kinds whose words may be several tokens
    instead: ClassVar[frozenset[str]] = frozenset()  # kinds that a tokenizer may lack, because others do

    @abstractmethod
    def frames(self) -> Sequence[str]:
        """The sentences, through the answer."""

    @abstractmethod
    def lists(self) -> Mapping[str, Sequence[str]]:
        """The words of every kind."""

    @abstractmethod
    def writer(self, lexicon: Lexicon) -> Writer:
        """What draws a filling. Raises PromptError (`too_few`) where the lexicon does not do."""

    def pairs(self, tokenizer: Any, seed: int) -> list[PromptPair]:
        self.need(tokenizer)
        draw = self.writer(self.lexicon(tokenizer))

        def write(index: int, rng: np.random.Generator) -> PromptPair:
            return self._pair(draw(rng), index)

        return [self.drawn(seed, index, partial(write, index)) for index in range(self.count)]

    def lexicon(self, tokenizer: Any) -> Lexicon:
        """What this tokenizer can write. PromptError where it knows no frame, or under two words of a kind."""
        known = [frame for frame in self.frames() if is_known(tokenizer, _bare(frame))]
        if not known:
            raise PromptError(
                f"task {self.name}: this tokenizer does not know the words of its sentences; give your own pairs with "
                "{name: file, path: ...}"
            )
        around: dict[str, dict[tuple[str, str], None]] = {}
        for frame in known:
            for kind, role, before, after in _slots(frame):
                around.setdefault(kind, {})[before, "" if role == ANSWER else after] = None
        lists = self.lists()
        several = self.several | self._whole_answers(known)
        sizes = {
            kind: _sizes(tokenizer, lists[kind], tuple(places), one=kind not in several)
            for kind, places in around.items()
        }
        lexicon = Lexicon(known, sizes, {kind: len(lists[kind]) for kind in sizes})
        for kind in sizes:
            if kind not in self.instead:
                self.too_few(lexicon, kind, min(2, len(lists[kind])))
        return lexicon

    @property
    def constant(self) -> frozenset[str]:
        """Kinds whose words are the same in clean and corrupted prompts."""
        return frozenset()

    def _whole_answers(self, frames: Sequence[str]) -> frozenset[str]:
        """Kinds whose words may be several tokens because answers may: those that no corruption exchanges."""
        if self.target == "token":
            return frozenset()
        slots = [(kind, role) for frame in frames for kind, role, _, _ in _slots(frame)]
        shown = {kind for kind, role in slots if role != ANSWER} - self.constant
        return frozenset(kind for kind, role in slots if role == ANSWER) - shown

    def too_few(
        self, lexicon: Lexicon, kind: str, needed: int, found: int | None = None, mend: str = ""
    ) -> None:
        """Raises PromptError unless `found` (all of the kind, if not given) are as many as are needed."""
        found = len(lexicon.sizes[kind]) if found is None else found
        if found < needed:
            what = f"words of the list '{kind}'"
            raise self.short_of(found, lexicon.tried[kind], needed, what, mend or "use another model,")

    def _pair(self, filling: Filling, index: int) -> PromptPair:
        clean, corrupted = dict(filling.clean), {**filling.clean, **filling.exchanged}
        frame, joint = _asked(filling.frame)
        roles = {slot: slot.rpartition(".")[2] for slot in _gaps(frame)}
        text, places = written(frame, {slot: clean[role] for slot, role in roles.items()})
        other, _ = written(frame, {slot: corrupted[role] for slot, role in roles.items()})
        last = re.search(r"(\w+|[^\w\s])\s*\Z", text)
        end = {"end": last.span(1)} if last else {}
        return PromptPair(
            clean=text,
            corrupted=other,
            answers=tuple(joint + answer for answer in filling.answers),
            wrong_answers=tuple(joint + answer for answer in filling.wrong_answers),
            source=f"{self.id} prompt {index}",
            bos=self.bos,
            spans={role: places[slot] for slot, role in roles.items()} | end,
        )


def choice(rng: np.random.Generator, items: Sequence[Any]) -> Any:
    """One of the items, each equally likely."""
    return items[int(rng.integers(len(items)))]


def _gaps(frame: str) -> list[str]:
    return [gap for _, gap, _, _ in Formatter().parse(frame) if gap is not None]


def _slots(frame: str) -> Iterator[tuple[str, str, str, str]]:
    """(kind, role, before, after) of every slot; what stands around it reaches to the next slots."""
    parts = [(literal, gap) for literal, gap, _, _ in Formatter().parse(frame)]
    for index, (before, gap) in enumerate(parts):
        if gap is not None:
            kind, _, role = gap.rpartition(".")
            after = parts[index + 1][0] if index + 1 < len(parts) else ""
            yield kind or role, role, before, after


def _asked(frame: str) -> tuple[str, str]:
    """The prompt's frame, and what joins an answer to it: a space, or nothing."""
    return _cut(frame[: frame.rindex("{")])


def _cut(text: str) -> tuple[str, str]:
    """What stands before a word, and the space that belongs to the word."""
    if text.endswith(_HERE):
        return text.removesuffix(_HERE), ""
    before = text.rstrip(" ")
    return before, text[len(before) :]


def _bare(frame: str) -> str:
    """The frame's own words."""
    return " ".join(literal.removesuffix(_HERE).strip() for literal, _, _, _ in Formatter().parse(frame))


def _sizes(
    tokenizer: Any, words: Sequence[str], places: Sequence[tuple[str, str]], *, one: bool
) -> dict[str, Sizes]:
    """The words that are tokens of their own in every place, with how many: neither what stands before nor what
    stands after changes by them, no token is the unknown one, and no two words are the same tokens."""
    left: dict[str, Sizes] = dict.fromkeys(dict.fromkeys(words), ())
    unknown = getattr(tokenizer, "unk_token_id", None)
    for before, after in places:
        start, joint = _cut(before)
        prefix = encode(tokenizer, start)
        texts = [f"{start}{joint}{word}{end}" for word in left for end in ("", after)]
        read = iter(encode_all(tokenizer, texts))
        seen: set[tuple[int, ...]] = set()
        kept: dict[str, Sizes] = {}
        for word, sizes in left.items():
            ids, followed = next(read).ids, next(read).ids
            own = ids[len(prefix) :]
            whole = ids[: len(prefix)] == prefix and followed[: len(ids)] == ids
            if whole and own and own not in seen and unknown not in own and (len(own) == 1 or not one):
                seen.add(own)
                kept[word] = (*sizes, len(own))
        left = kept
    return left
