"""From text to token ids: what the model is given, and nothing after it.

    "When Mary"  ->  <s> When Mary        the tokenizer writes  <s> When Mary </s>

Knows tokenizers. Does not know prompt pairs, answers or files.

What a tokenizer adds is told from what the text says by the tokenizer itself (the mask of its post-processor), or by
encoding with and without; never by comparing ids, for an end token may be that of the beginning, or a word. What it
adds after the text is cut: the model answers at the text's last token. What it adds before the text is not added again
to a text that begins with it, as one does that a chat template wrote.
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline.core.errors import PromptError
from pipeline.core.text import first_line

Range = tuple[int, int]  # from the first to the one after the last

_PROBES = ("x", "the", "0 a", "[unk] .")  # for tokenizers that do not tell what they add


@dataclass(frozen=True, slots=True)
class Encoded:
    """A text in tokens. The first `added` of its `ids` the tokenizer put before it; `places` are [first, end) in
    characters of each token, (0, 0) for those, and None where they were not asked for or the tokenizer cannot say."""

    ids: tuple[int, ...]
    added: int
    places: tuple[Range, ...] | None = None

    @property
    def own(self) -> tuple[int, ...]:
        """The tokens of the text itself."""
        return self.ids[self.added :]

    def begun_with(self, token: int) -> "Encoded":
        """With this token first, unless it is there: among what was added, or as the text's first."""
        if token in self.ids[: self.added + 1]:
            return self
        places = None if self.places is None else ((0, 0), *self.places)
        return replace(self, ids=(token, *self.ids), added=self.added + 1, places=places)


def encode(tokenizer: Any, text: str) -> tuple[int, ...]:
    """Token ids of a prompt, with the special tokens that the model expects before it, and none after it."""
    return encode_all(tokenizer, [text])[0].ids


def encode_all(tokenizer: Any, texts: Sequence[str], *, places: bool = False) -> list[Encoded]:
    """Every text in tokens, with the special tokens that the model expects before it, and none after it.

    PromptError, quoting the text, where the tokenizer cannot read it.
    """
    read = _fast if is_plainly_fast(tokenizer) else _slow
    try:
        return read(tokenizer, texts, places)
    except PromptError:
        raise
    except BaseException as error:
        if not is_failure(error):
            raise
        if len(texts) > 1:
            return [encode_all(tokenizer, [text], places=places)[0] for text in texts]
        raise PromptError(
            f"the tokenizer cannot read {texts[0][:60]!r} ({first_line(error)[:100]}); use words that it knows, or "
            "give token ids"
        ) from None


def is_failure(error: BaseException) -> bool:
    """Whether an error of a tokenizer is its own: any Exception, and what Rust code raises where it gives up, which is
    none. Not that someone wants the process to stop."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def is_plainly_fast(tokenizer: Any) -> bool:
    """Whether the tokenizer is a `tokenizers` one and nothing of Python stands around it."""
    if not getattr(tokenizer, "is_fast", False):
        return False
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

    kind = type(tokenizer)
    return (
        isinstance(tokenizer, PreTrainedTokenizerFast)
        and kind._encode_plus is PreTrainedTokenizerFast._encode_plus  # noqa: SLF001 - whether it is its own
        and kind.__call__ is PreTrainedTokenizerBase.__call__
    )


def _fast(tokenizer: Any, texts: Sequence[str], places: bool) -> list[Encoded]:
    """The encoder in Rust, asked directly: transformers' way to it takes as long again."""
    backend = backend_of(tokenizer)
    encodings = (backend.encode_batch if places else backend.encode_batch_fast)(list(texts))
    return [_cut(tokenizer, encoding, places) for encoding in encodings]


def backend_of(tokenizer: Any) -> Any:
    """The `tokenizers` one below, set as transformers does at every call."""
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = tokenizer.split_special_tokens
    return backend


def _cut(tokenizer: Any, encoding: Any, places: bool) -> Encoded:
    ids, mask = encoding.ids, encoding.special_tokens_mask
    if 0 in mask:
        first, end = mask.index(0), len(mask) - mask[::-1].index(0)
    else:  # nothing of the text is left: what stands before it cannot be seen here
        first = end = min(_before(lambda probe: _masked(tokenizer, probe)), len(ids))
    if 1 in mask[first:end]:
        raise PromptError(
            "this tokenizer adds tokens within the text, which no prompt can be read with; give token ids"
        )
    spots = tuple(encoding.offsets) if places else None
    return _once(ids[:first], ids[first:end], None if spots is None else spots[first:end])


def _slow(tokenizer: Any, texts: Sequence[str], places: bool) -> list[Encoded]:
    """A text at a time, with and without what the tokenizer adds. Which tokens of several are the text is told by
    `_before`, where it cannot be seen."""
    found = []
    for text in texts:
        whole = tuple(tokenizer(text, add_special_tokens=True)["input_ids"])
        own = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
        starts = _starts(whole, own)
        usual = _before(lambda probe: _compared(tokenizer, probe)) if len(starts) > 1 else 0
        if not starts:
            raise PromptError(
                f"this tokenizer writes {text[:60]!r} otherwise where it adds special tokens; give token ids"
            )
        first = usual if usual in starts else starts[0]
        spots = None
        if places and getattr(tokenizer, "is_fast", False):
            mapped = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
            spots = tuple((int(a), int(b)) for a, b in mapped["offset_mapping"])
        found.append(_once(whole[:first], own, spots))
    return found


def _once(before: Sequence[int], own: Sequence[int], spots: Sequence[Range] | None) -> Encoded:
    """The text's tokens after those that stand before every text, up to where the text itself begins with one."""
    if own and own[0] in before:
        before = before[: before.index(own[0])]
    places = None if spots is None else (*((0, 0) for _ in before), *spots)
    return Encoded((*before, *own), len(before), places)


def _starts(whole: Sequence[int], own: Sequence[int]) -> list[int]:
    """Where the tokens of a text may begin within those with what was added."""
    return [i for i in range(len(whole) - len(own) + 1) if whole[i : i + len(own)] == own]


def _before(look: Callable[[str], int | None]) -> int:
    """How many tokens the tokenizer puts before a text, by the first one of some texts that shows it."""
    for probe in _PROBES:
        with contextlib.suppress(Exception):  # a tokenizer of few words
            if (found := look(probe)) is not None:
                return found
    return 0


def _masked(tokenizer: Any, probe: str) -> int | None:
    mask = tokenizer.backend_tokenizer.encode(probe).special_tokens_mask
    return mask.index(0) if 0 in mask else None


def _compared(tokenizer: Any, probe: str) -> int | None:
    whole, own = (tuple(tokenizer(probe, add_special_tokens=adds)["input_ids"]) for adds in (True, False))
    starts = _starts(whole, own)
    return starts[0] if own and len(starts) == 1 else None
