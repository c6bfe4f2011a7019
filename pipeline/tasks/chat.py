"""Prompts as what a person says to a chat model: rendered by the tokenizer's template, once.

Knows templates of tokenizers. Does not know tasks or files. What the template writes at the beginning is not written
again when the text is encoded (`pipeline.models.encoding`): there is one token for the beginning of a text, not two.
"""

from dataclasses import replace
from typing import Any

from pipeline.core.errors import PromptError
from pipeline.core.prompts import Piece, PromptPair, Text
from pipeline.core.text import first_line


def in_chat(pair: PromptPair, tokenizer: Any) -> PromptPair:
    """The pair with both prompts as the words of a user, up to where the model's answer begins.

    Spans in characters go along, and answers stay as they are. Raises PromptError that names the pair for prompts of
    token ids, a tokenizer without a template, or a template that does not hold the prompt's words as they are.
    """
    where = pair.source or "a pair"
    clean, first = _rendered(pair.clean, tokenizer, where)
    corrupted, _ = _rendered(pair.corrupted, tokenizer, where)
    spans = {name: _moved(piece, str(pair.clean), first, where, name) for name, piece in pair.spans.items()}
    return replace(pair, clean=clean, corrupted=corrupted, spans=spans)


def _rendered(text: Text, tokenizer: Any, where: str) -> tuple[str, int]:
    """The text in the template, and where it begins there."""
    if not isinstance(text, str):
        raise PromptError(
            f"{where}: chat: true renders text, and this prompt is token ids; render it, or leave chat out"
        )
    if getattr(tokenizer, "chat_template", None) is None:
        raise PromptError(
            f"{where}: chat: true, and the model's tokenizer has no chat template; leave chat out, or use a chat model"
        )
    try:
        said = tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
        )
    except Exception as error:  # noqa: BLE001 - a template is a program of somebody else's
        raise PromptError(
            f"{where}: the chat template cannot render this prompt ({first_line(error)[:100]})"
        ) from None
    first = said.find(text)
    if first < 0:
        raise PromptError(
            f"{where}: the chat template changes this prompt's words (white space at its ends, mostly); write it "
            "without, or render it yourself"
        )
    return said, first


def _moved(piece: Piece, text: str, first: int, where: str, name: str) -> Piece:
    """A span where the text now is. Words become characters: the template may hold the same words."""
    if not isinstance(piece, str):
        return piece[0] + first, piece[1] + first
    words = piece.strip() or piece
    if text.count(words) != 1:
        raise PromptError(
            f"{where}: the span {name!r}, {piece!r}, occurs {text.count(words)} times in the clean prompt; give words "
            "that occur once, or [first, end) in characters"
        )
    start = text.index(words) + first
    return start, start + len(words)
