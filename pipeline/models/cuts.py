"""Of which tokenizers it is proven that the tokens of a text are those of its words, one after the other.

Knows the parts of `tokenizers` and what they do with a space. Does not know texts.

A cut is a space between two visible characters. With what is listed here it ends whatever stands before it, what
follows does not depend on what stood there, and no token reaches over it. What is not listed is not proven.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

from pipeline.models.encoding import is_plainly_fast

State = dict[str, Any]  # of a part, as tokenizer.json has it

# What splits in front of every such space: no alternative holds a space behind another character, none looks back.
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_GPT4 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}MANY| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Of GPT-2; of GPT-4 and Llama 3; of Qwen 2.
_ISOLATED = {_GPT2, _GPT4.replace("MANY", "{1,3}"), _GPT4.replace("MANY", "")}
_AT_SPACES = {"BertPreTokenizer", "Whitespace", "WhitespaceSplit"}
_WITHIN_PIECES = {"ByteLevel", "Digits", "Punctuation", "Split"}  # behind those: they see a piece at a time
# What changes a character whatever stands around it, or together with marks behind it that are no space.
_BY_CHARACTER = {"NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "BertNormalizer"}
_MODELS = {"BPE", "Unigram", "WordLevel", "WordPiece"}
_AROUND = {"BertProcessing", "ByteLevel", "RobertaProcessing", "TemplateProcessing"}

_SPACE = "▁"
_PREPEND = {"type": "Prepend", "prepend": _SPACE}
_REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}


@dataclass(frozen=True)
class Cuts:
    """How the words of a text are read apart from each other.

    Behind a space a word is given as `lead` and the word. `any_letter`: letters of all scripts are as good as visible
    ASCII beside a cut. A word in which `added` is found belongs to no text that may be cut.
    """

    lead: str
    any_letter: bool
    added: re.Pattern[str] | None


def cuts_of(tokenizer: Any) -> Cuts | None:
    """How its texts may be cut, None where it is not proven that they may."""
    if not is_plainly_fast(tokenizer):
        return None
    backend = tokenizer.backend_tokenizer
    normalizers = _parts(backend.normalizer, "normalizers")
    splitters = _parts(backend.pre_tokenizer, "pretokenizers")
    added = list(backend.get_added_tokens_decoder().values())
    if (
        type(backend.model).__name__ not in _MODELS
        or getattr(backend.model, "dropout", None)
        or not _only_around(backend.post_processor)
        # one with a space within would reach over a cut; one of normalised text is not to be seen in the text
        or any(" " in token.content[1:] or (token.normalized and normalizers) for token in added)
    ):
        return None
    contents = [re.escape(token.content) for token in added if token.content]
    found = re.compile("|".join(contents)) if contents else None
    if normalizers in ([_PREPEND, _REPLACE], [_REPLACE]):
        if any(not _splits_at_spaces_alone(one) for one in splitters) or not _tokens_end_at_spaces(backend):
            return None
        return Cuts("" if _PREPEND in normalizers else " ", any_letter=True, added=found)
    if any(one["type"] not in _BY_CHARACTER for one in normalizers) or not splitters:
        return None
    first, *others = splitters
    if not others and first["type"] == "Metaspace" and not first["split"]:
        proven = first["replacement"] == _SPACE and _tokens_end_at_spaces(backend)
    else:
        proven = _cuts_at_spaces(first) and all(one["type"] in _WITHIN_PIECES for one in others)
    any_letter = all(one["type"] == "NFC" for one in normalizers)
    return Cuts(" ", any_letter, found) if proven else None


def _parts(part: Any, several: str) -> list[State]:
    """A normaliser or pre-tokenizer as the list of those that it is made of."""
    if part is None:
        return []
    state = json.loads(part.__getstate__())
    pending, found = [state], []
    while pending:
        one = pending.pop(0)
        if one["type"] == "Sequence":
            pending = [*one[several], *pending]
        else:
            found.append(one)
    return found


def _cuts_at_spaces(splitter: State) -> bool:
    match splitter["type"]:
        case "ByteLevel":
            return bool(splitter["use_regex"])
        case "Metaspace":
            return bool(splitter["split"]) and splitter["replacement"] == _SPACE
        case "Split":
            pattern = splitter["pattern"].get("Regex")
            how = splitter["behavior"], splitter["invert"]
            if pattern == r"\s+":
                return how == ("Removed", False)
            return pattern in _ISOLATED and how in (("Isolated", False), ("Removed", True))
        case kind:
            return kind in _AT_SPACES


def _splits_at_spaces_alone(splitter: State) -> bool:
    """Whether it does nothing to a text without a space."""
    return splitter["type"] == "Split" and splitter["pattern"] == {"String": " "} and not splitter["invert"]


def _tokens_end_at_spaces(backend: Any) -> bool:
    """Whether pieces of a text that is not split are merged up to spaces and no further: no token holds a space behind
    another character, so that nothing of the one side is ever merged with the other."""
    model = backend.model
    if type(model).__name__ != "BPE" or model.ignore_merges:
        return False
    if model.continuing_subword_prefix or model.end_of_word_suffix:
        return False
    vocabulary = backend.get_vocab(with_added_tokens=False)
    return _SPACE in vocabulary and not any(_SPACE in token.lstrip(_SPACE) for token in vocabulary)


def _only_around(processor: Any) -> bool:
    """Whether all that is added to a text stands before it and behind it, and it stands there once."""
    for one in _parts(processor, "processors"):
        if one["type"] not in _AROUND:
            return False
        if one["type"] == "TemplateProcessing" and sum("Sequence" in piece for piece in one["single"]) != 1:
            return False
    return True
