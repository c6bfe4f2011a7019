"""From a named piece of a prompt to its tokens.

Knows tokenizers, and where in a text their tokens lie. Does not know answers, files or tensors.

A piece of text covers every token that overlaps its characters, so that half a word stands for the token that
it is in. White space around words that are looked up is no part of them: many tokenizers write it into the
next token.
"""

import re
from typing import Any

from pipeline.core.errors import PromptError
from pipeline.core.prompts import Piece, PromptPair
from pipeline.models.encoding import Encoded, Range, encode_all


def token_spans(tokenizer: Any, pair: PromptPair, clean: Encoded, where: str) -> dict[str, Range]:
    """[first, end) in tokens of every span of a pair whose clean prompt is `clean`.

    Raises PromptError, naming `where` and the span, for words that occur not at all or more than once, for
    characters outside of the prompt or without a token, and for a tokenizer that does not tell.
    """
    if not isinstance(pair.clean, str):
        return {name: _as_tokens(piece, f"{where}: the span {name!r}") for name, piece in pair.spans.items()}
    if not pair.spans:
        return {}
    text, found = pair.clean, {}
    places = clean.places
    if places is None:
        places = encode_all(tokenizer, [text], places=True)[0].places
    for name, piece in pair.spans.items():
        what = f"{where}: the span {name!r}"
        start, end = _characters(text, piece, what)
        if places is None:
            found[name] = _by_prefixes(tokenizer, text, clean.ids, (start, end), what)
            continue
        tokens = [i for i, (a, b) in enumerate(places) if max(a, start) < min(b, end)]
        if not tokens:
            raise _no_token(what, text[start:end])
        found[name] = (tokens[0], tokens[-1] + 1)
    return found


def _as_tokens(piece: Piece, what: str) -> Range:
    if isinstance(piece, str):
        raise PromptError(
            f"{what} is text in a prompt of token ids; give [first, end), counted in tokens from 0"
        )
    return piece


def _characters(text: str, piece: Piece, what: str) -> Range:
    """Where the piece lies in the text."""
    if not isinstance(piece, str):
        if not 0 <= piece[0] < piece[1] <= len(text):
            raise PromptError(
                f"{what} is [{piece[0]}, {piece[1]}) and the clean prompt has {len(text)} characters; "
                "give the first character and the one after the last"
            )
        return piece
    words = piece.strip() or piece
    places = [match.start() for match in re.finditer(f"(?={re.escape(words)})", text)] if words else []
    if len(places) != 1:
        times = f"occurs {len(places)} times in" if places else "is not in"
        raise PromptError(
            f"{what}, {piece!r}, {times} the clean prompt; give words that occur once, or [first, end) in characters"
        )
    return places[0], places[0] + len(words)


def _by_prefixes(tokenizer: Any, text: str, ids: tuple[int, ...], at: Range, what: str) -> Range:
    """The tokens of a piece from the beginnings of the text: one that encodes to the first k tokens ends where
    token k begins. Other beginnings cut through a token."""
    borders: dict[int, list[int]] = {}  # by k: the characters after which it lies, several at white space
    for cut, encoded in enumerate(encode_all(tokenizer, [text[:cut] for cut in range(len(text) + 1)])):
        tokens = encoded.ids
        if tokens == ids[: len(tokens)]:
            borders.setdefault(len(tokens), []).append(cut)
    begin, stop = at
    first = max((k for k, cuts in borders.items() if cuts[0] <= begin), default=None)
    end = min((k for k, cuts in borders.items() if cuts[-1] >= stop), default=None)
    sure = (
        first is not None
        and end is not None
        and (begin <= borders[first][-1] or first + 1 in borders)
        and (borders[end][0] <= stop or end - 1 in borders)
    )
    if first is None or end is None or not sure:
        raise PromptError(
            f"{what}: this tokenizer does not tell which tokens {text[begin:stop]!r} is; give prompts as token "
            "ids, and the span as [first, end) in tokens"
        )
    if first >= end:
        raise _no_token(what, text[begin:stop])
    return first, end


def _no_token(what: str, words: str) -> PromptError:
    return PromptError(f"{what}, {words!r}, is no token of the prompt; name words that the model reads")
