"""Many texts in tokens, word by word: what a tokenizer makes of a word behind a space is asked once.

    "When Mary went"  ->  <s> When | Ma ry | went      a question for each of "When", " Mary" and " went"

Knows words, and a tokenizer whose texts may be cut (`pipeline.models.cuts`). Does not know prompt pairs or files.

Texts that other white space separates, with tokens that were added to the vocabulary, or with very long words are left
to who asks: `read` gives those that it is sure of.
"""

import contextlib
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

from pipeline.core.errors import PromptError
from pipeline.models.cuts import Cuts, cuts_of
from pipeline.models.encoding import Encoded, backend_of, encode_all, is_failure

MOST = 1 << 16  # words that are remembered
LONGEST = 64  # letters of a word

Ids = tuple[int, ...]


class Words:
    """A tokenizer, and the words that it has read already."""

    def __init__(self, tokenizer: Any, cuts: Cuts) -> None:
        self._tokenizer, self._cuts = tokenizer, cuts
        self._first: dict[str, Encoded] = {}
        self._behind: dict[str, Ids] = {}
        self._unsure: set[str] = set()
        self._ends: dict[tuple[str, str], tuple[Ids, Ids] | None] = {}

    @staticmethod
    def of(tokenizer: Any) -> "Words | None":
        """None for a tokenizer of which it is not proven that its texts may be cut."""
        cuts = cuts_of(tokenizer)
        return None if cuts is None else Words(tokenizer, cuts)

    def read(self, texts: Sequence[str]) -> dict[str, Encoded]:
        """Those of these texts that may be cut, in tokens, as `encode_all` gives them."""
        split = [text.split(" ") for text in texts]
        self._learn({words[0] for words in split}, {word for words in split for word in words[1:]})
        found = {}
        for text, (word, *words) in zip(texts, split, strict=True):
            first = self._first.get(word)
            if first is not None and (behind := self._joined(words)) is not None:
                found[text] = Encoded((*first.ids, *behind), first.added)
        return found

    def ends(self, text: str, more: str) -> tuple[Ids, Ids] | None:
        """The tokens of the last word of a text that was read, and what they are with `more` behind it: all before
        them stays. None where that is not sure."""
        start = text.rfind(" ")
        if start < 0:
            return None
        key = text[start + 1 :], more
        if key not in self._ends:
            words = (key[0] + more).split(" ")
            self._learn((), {key[0], *words})
            before, after = self._joined(key[:1]), self._joined(words)
            self._ends[key] = None if before is None or after is None else (before, after)
        return self._ends[key]

    def _joined(self, words: Sequence[str]) -> Ids | None:
        """The tokens of words that stand behind spaces."""
        try:
            return tuple(chain.from_iterable(map(self._behind.__getitem__, words)))
        except KeyError:
            return None

    def _learn(self, first: Iterable[str], behind: set[str]) -> None:
        """Asks for what is new: words that begin a text, and those that stand behind spaces."""
        if len(self._first) + len(self._behind) + len(self._unsure) + len(self._ends) > MOST:
            for known in (self._first, self._behind, self._unsure, self._ends):
                known.clear()
        new = sorted(behind - self._behind.keys() - self._unsure)
        if sure := [word for word in new if self._is_apart(word)]:
            texts = [f"{self._cuts.lead}{word}" for word in sure]
            try:
                read = backend_of(self._tokenizer).encode_batch_fast(texts, add_special_tokens=False)
                self._behind.update((word, tuple(one.ids)) for word, one in zip(sure, read, strict=True))
            except BaseException as error:
                if not is_failure(error):
                    raise  # one that cannot be read has a line where its whole text is read
        self._unsure.update(word for word in new if word not in self._behind)
        if begin := [word for word in first if word not in self._first and self._is_apart(word)]:
            with contextlib.suppress(PromptError):
                encoded = encode_all(self._tokenizer, begin)
                self._first.update((word, one) for word, one in zip(begin, encoded, strict=True) if one.own)

    def _is_apart(self, word: str) -> bool:
        """Whether a text may be cut at the spaces around this word, and no added token is in it."""
        if not 0 < len(word) <= LONGEST or not (self._is_visible(word[0]) and self._is_visible(word[-1])):
            return False
        return self._cuts.added is None or self._cuts.added.search(f" {word}") is None

    def _is_visible(self, letter: str) -> bool:
        return "!" <= letter <= "~" or (self._cuts.any_letter and letter.isalpha())
