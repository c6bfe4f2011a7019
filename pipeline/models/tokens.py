"""From text to the model's tokens: prompts, and answers *in context*.

Knows tokenizers. Does not know files, tasks or tensors.

An answer is the one token by which encode(prompt + answer) is longer than encode(prompt), or, where a pair asks for
all of them (`pipeline.models.targets`), the several tokens: with SentencePiece tokenizers the answer encoded alone has
another first piece, and the wrong token would be scored without a word.
Tokenizers of whole words have no token for "storeMary": there an answer may do without the space before it.
"""

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from pipeline.core.errors import PromptError
from pipeline.core.prompts import Answer, PromptPair, Text, TokenPair, check_pair
from pipeline.models.encoding import Encoded, encode_all
from pipeline.models.spans import token_spans
from pipeline.models.targets import is_plain, with_answers
from pipeline.models.words import Ids, Words

CHUNK = 512  # pairs whose texts are encoded together
_SPACES = "▁Ġ "  # how the space before a word shows in a token


def tokenise(pairs: Iterable[PromptPair], tokenizer: Any, **checks: Any) -> list[TokenPair]:
    """The list of what `tokenised` yields."""
    return list(tokenised(pairs, tokenizer, **checks))


def tokenised(
    pairs: Iterable[PromptPair],
    tokenizer: Any,
    *,
    max_length: int | None = None,
    vocab_size: int | None = None,
    needs_wrong: bool = False,
    max_branched: int | None = None,
) -> Iterator[TokenPair]:
    """The pairs in tokens, each checked; `prompt_id` is the index in `pairs`. In the memory of `CHUNK` pairs.

    Raises PromptError that names the pair for unequal lengths, answers of more than one token, ids outside of
    the vocabulary, a prompt longer than `max_length`, a missing wrong answer where `needs_wrong`, or a span that
    is not where it is said to be.
    """
    numbered, words = enumerate(pairs), None
    while chunk := list(itertools.islice(numbered, CHUNK)):
        if chunk[0][0] == 0 and len(chunk) == CHUNK and any(isinstance(p.clean, str) for _, p in chunk):
            words = Words.of(tokenizer)
        reader = Reader.of([pair for _, pair in chunk], tokenizer, vocab_size, words)
        for index, pair in chunk:
            token_pair = reader.tokens(index, pair)
            check_pair(token_pair, max_length=max_length, needs_wrong=needs_wrong, max_branched=max_branched)
            yield token_pair


@dataclass(frozen=True)
class Reader:
    """A tokenizer, and texts that it has read already: encoding many at once takes half the time."""

    tokenizer: Any
    vocab_size: int | None = None
    words: Words | None = None  # what reads most texts in a fraction of the time, where texts may be cut
    known: dict[str, Encoded] = field(default_factory=dict)
    by_word: set[str] = field(default_factory=set)

    @classmethod
    def of(
        cls, pairs: Sequence[PromptPair], tokenizer: Any, vocab_size: int | None, words: Words | None = None
    ) -> "Reader":
        """With the prompts and the answers of these pairs; PromptError for text without a tokenizer."""
        reader = cls(tokenizer, vocab_size, words)
        if tokenizer is None:
            return reader
        placed = [pair.clean for pair in pairs if pair.spans and isinstance(pair.clean, str)]
        prompts = [text for pair in pairs for text in (pair.clean, pair.corrupted) if isinstance(text, str)]
        followed = [
            (pair.clean, answer)
            for pair in pairs
            if isinstance(pair.clean, str)
            for answer in (*pair.answers, *pair.wrong_answers)
            if isinstance(answer, str) and pair.read is None
        ]
        # Texts that the tokenizer cannot read are met again one by one, where they have a line.
        with contextlib.suppress(PromptError):
            reader._read(placed, places=True)
            reader._read(prompts)
            reader._read_after(followed)
            reader._read_after(
                (prompt, f" {answer}")
                for prompt, answer in followed
                if reader._lacks_space(prompt, answer) and _added(reader._ends(prompt, answer)) is None
            )
        return reader

    def tokens(self, index: int, pair: PromptPair) -> TokenPair:
        """The pair in tokens, `index` as its id, not yet checked."""
        where = pair.source or f"prompt {index}"
        clean, corrupted = (self._prompt(text, where) for text in (pair.clean, pair.corrupted))
        plain = is_plain(pair)
        answers, wrong = (
            tuple(dict.fromkeys(self._answer(pair.clean, answer, where) for answer in given if plain))
            for given in (pair.answers, pair.wrong_answers)
        )
        spans = token_spans(self.tokenizer, pair, clean, where)
        if pair.bos == "add":
            first = self._bos(where)
            before = len(clean.ids)
            clean, corrupted = (self._led(read).begun_with(first) for read in (clean, corrupted))
            moved = len(clean.ids) - before
            spans = {name: (start + moved, end + moved) for name, (start, end) in spans.items()}
            if not isinstance(pair.clean, str):  # ids are kept as the model reads them
                pair = replace(pair, clean=clean.ids, corrupted=corrupted.ids, spans=spans)
        token = TokenPair(index, clean.ids, corrupted.ids, answers, wrong, pair, spans)
        return token if plain else with_answers(token, self, where)

    # --- prompts -----------------------------------------------------------------------------------------

    def _prompt(self, text: Text, where: str) -> Encoded:
        if not isinstance(text, str):
            for token in (min(text, default=0), max(text, default=0)):
                self._in_vocabulary(token, where)
            return Encoded(tuple(map(int, text)), 0)
        if self.tokenizer is None:
            raise PromptError(f"{where}: the model has no tokenizer; give the prompts as lists of token ids")
        encoded = self._encoded(text, where)
        if self.vocab_size is not None and max(encoded.ids, default=0) >= self.vocab_size:
            raise self._outside(max(encoded.ids), where)
        return encoded

    def _outside(self, token: int, where: str) -> PromptError:
        """The error for a token that the tokenizer has and the model has not."""
        return PromptError(
            f"{where}: token id {token} is outside of the model's vocabulary of {self.vocab_size}: the tokenizer "
            f"writes {self._names([token])!r} so; leave it out, or give the model that was trained with it"
        )

    def _bos(self, where: str) -> int:
        if self.tokenizer is None:
            raise PromptError(
                f"{where}: bos: add, and the model has no tokenizer, which would know the token; write its id at the "
                "beginning of the prompts"
            )
        token = self.tokenizer.bos_token_id
        if token is None:
            raise PromptError(
                f"{where}: bos: add, and this tokenizer has no token for the beginning of a text (bos_token); "
                "leave bos out"
            )
        return self._in_vocabulary(token, where)

    def _led(self, read: Encoded) -> Encoded:
        """A prompt of ids that begins as the tokenizer begins every text, with that told from the rest."""
        (some,) = self._lead
        lead = some.ids[: some.added]
        return replace(read, added=len(lead)) if not read.added and read.ids[: len(lead)] == lead else read

    @cached_property
    def _lead(self) -> list[Encoded]:
        return encode_all(self.tokenizer, [""])

    def _in_vocabulary(self, token: int, where: str) -> int:
        if token < 0 or (self.vocab_size is not None and token >= self.vocab_size):
            raise PromptError(
                f"{where}: token id {token} is outside of the model's vocabulary of {self.vocab_size}; give ids from 0 "
                "on that it has, or the model that they are of"
            )
        return int(token)

    def _encoded(self, text: str, where: str) -> Encoded:
        if text not in self.known:
            try:
                self._read([text])
            except PromptError as error:
                raise PromptError(f"{where}: {error}") from None
        return self.known[text]

    def _read(self, texts: Iterable[str], *, places: bool = False) -> None:
        new = [text for text in dict.fromkeys(texts) if text not in self.known]
        if new and self.words is not None and not places:
            found = self.words.read(new)
            self.known.update(found)
            self.by_word.update(found)
            new = [text for text in new if text not in found]
        if new:
            self.known.update(zip(new, encode_all(self.tokenizer, new, places=places), strict=True))

    def _read_after(self, followed: Iterable[tuple[str, str]]) -> None:
        """Reads prompts with what follows them, where the end of a prompt alone does not tell its tokens."""
        self._read(prompt + more for prompt, more in followed if self._ends(prompt, more) is None)

    # --- answers -----------------------------------------------------------------------------------------

    def sequence(self, prompt: Text, answer: Answer, where: str) -> tuple[int, ...]:
        """All tokens of an answer after a prompt, one or more."""
        if not isinstance(answer, str):
            tokens = (answer,) if isinstance(answer, int) else answer
            return tuple(self._in_vocabulary(token, where) for token in tokens)
        if self.tokenizer is None:
            raise PromptError(f"{where}: the model has no tokenizer; give the answers as token ids")
        text = prompt if isinstance(prompt, str) else self._words_of(prompt)
        for more in (answer, f" {answer}") if self._lacks_space(text, answer) else (answer,):
            before, after = self._encoded(text, where).ids, self._encoded(text + more, where).ids
            tokens = after[len(before) :]
            if tokens and after[: len(before)] == before and self._unknown not in tokens:
                for token in tokens:
                    if self.vocab_size is not None and token >= self.vocab_size:
                        raise self._outside(token, where)
                return tokens
        if self._unknown is not None and self._unknown in self._encoded(text + answer, where).own:
            raise PromptError(
                f"{where}: the tokenizer does not know the answer {_short(answer)}; use words that it knows"
            )
        raise PromptError(f"{where}: {self._split(text, answer)}")

    def ends(self, text: str, ids: Ids, where: str) -> bool:
        """Whether these tokens end with a text's."""
        own = self._encoded(text, where).own
        return ids[len(ids) - len(own) :] == own

    def _words_of(self, ids: Ids) -> str:
        """The text that ids stand for, as the tokenizer writes it again."""
        own = ids[len(lead) :] if ids[: len(lead := self._lead[0].ids)] == lead else ids
        plain = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
        return str(self.tokenizer.decode(list(own), **plain))

    def _answer(self, prompt: Text, answer: Answer, where: str) -> int:
        """The token of an answer after a prompt. Beside prompts of ids, text is read after the words that they
        stand for: which of its tokens " She" is depends on those."""
        if not isinstance(answer, str):
            return self._in_vocabulary(answer if isinstance(answer, int) else answer[0], where)
        if self.tokenizer is None:
            raise PromptError(f"{where}: the model has no tokenizer; give the answers as token ids")
        if isinstance(prompt, str):
            return self._token_after(prompt, answer, where)
        plain = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
        return self._token_after(str(self.tokenizer.decode(list(prompt), **plain)), answer, where)

    def _token_after(self, prompt: str, answer: str, where: str) -> int:
        token = self._token_behind(prompt, answer, where)
        if token is None and self._lacks_space(prompt, answer):
            token = self._token_behind(prompt, f" {answer}", where)
            if token is not None and any(space in self._names([token]) for space in _SPACES):
                token = None  # the space is in it: another token than was asked for
        if token is None:
            self._encoded(prompt + answer, where)
            raise PromptError(f"{where}: {self._split(prompt, answer)}")
        if token == self._unknown and answer.strip() != self.tokenizer.unk_token:
            raise PromptError(
                f"{where}: the tokenizer does not know the answer {_short(answer)}; use one of its words"
            )
        if self.vocab_size is not None and token >= self.vocab_size:
            raise self._outside(token, where)
        return token

    @cached_property
    def _unknown(self) -> int | None:
        """The token for what the tokenizer does not know."""
        token: int | None = self.tokenizer.unk_token_id
        return token

    def _token_behind(self, prompt: str, more: str, where: str) -> int | None:
        """The one token that `more` is behind a prompt, or None; both are read if they were not."""
        self._encoded(prompt, where)
        ends = self._ends(prompt, more)
        if ends is None:
            self._encoded(prompt + more, where)
            ends = self._ends(prompt, more)
        return _added(ends)

    def _ends(self, prompt: str, more: str) -> tuple[Ids, Ids] | None:
        """The tokens of a prompt and those with `more` behind it, from where they may differ; None if not known."""
        if self.words is not None and prompt in self.by_word:
            ends = self.words.ends(prompt, more)
            if ends is not None:
                return ends
        if prompt not in self.known or (text := self.known.get(prompt + more)) is None:
            return None
        return self.known[prompt].ids, text.ids

    def _lacks_space(self, prompt: str, answer: str) -> bool:
        """Whether there is no space between the two, to a tokenizer that may hold none in its tokens."""
        return not prompt[-1:].isspace() and not answer[:1].isspace() and self._drops_spaces

    @cached_property
    def _drops_spaces(self) -> bool:
        """Whether several spaces are as good as one."""
        try:
            several, one = encode_all(self.tokenizer, ["x   x", "x x"])
        except PromptError:
            return False
        return several.ids == one.ids

    def _names(self, ids: Sequence[int]) -> str:
        names = [str(name) for name in self.tokenizer.convert_ids_to_tokens(list(ids[:8]))]
        return " ".join(names) + (" ..." if len(ids) > len(names) else "")

    def _split(self, prompt: str, answer: str) -> str:
        """What is wrong with an answer that is not one token there, with the tokens and the mend."""
        before, after = self.known[prompt].ids, self.known[prompt + answer].ids
        same = next((i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), None)
        if same is None and len(after) >= len(before):
            wrong = f"is {len(after) - len(before)} tokens after this prompt"
            said = self._names(after[len(before) :])
            seen = f" ({said})" if said else ""
        else:
            wrong = "merges with the end of this prompt"
            same = min(len(before), len(after)) if same is None else same
            seen = f" ({self._names(before[same:]) or 'nothing'} becomes {self._names(after[same:]) or 'nothing'})"
        return f"the answer {_short(answer)} {wrong}, {_tail(prompt)}{seen}; {self._mend(prompt, answer)}"

    def _mend(self, prompt: str, answer: str) -> str:
        """What would be one token, as far as moving a space does it."""
        bare, word = prompt.rstrip(), answer.strip()
        for text in (f" {word}", word):
            if text in ("", " ", answer) and bare == prompt:
                continue
            with_it = [*encode_all(self.tokenizer, [bare, bare + text])]
            if with_it[1].ids[:-1] == with_it[0].ids:
                end = "" if bare == prompt else "end the prompt before the space and "
                return f"{end}write {_short(text)}"
        return "give an answer of one token, or its first piece"


def _added(ends: tuple[Ids, Ids] | None) -> int | None:
    """The one token by which the second is longer than the first, or None."""
    if ends is None:
        return None
    before, after = ends
    return after[-1] if len(after) == len(before) + 1 and after[:-1] == before else None


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:40]}...")


def _tail(prompt: str) -> str:
    return repr(prompt if len(prompt) <= 40 else f"...{prompt[-40:]}")
