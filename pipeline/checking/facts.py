"""What the tokens of a task's prompts say by themselves: lengths, duplicates, where clean and corrupted differ.

Knows prompts in tokens and, to show them, the tokenizer. Does not know models; loads without torch.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain, repeat
from typing import Any, Literal

import numpy as np

from pipeline.core.prompts import TokenPair, bucket_by_length

SHOWN = 8  # places at which prompts differ


def prompt_facts(
    tokens: Iterable[TokenPair], tokenizer: Any, *, per_shard: int, batch_size: int, sizes: Iterable[int] = ()
) -> dict[str, Any]:
    """Facts about prompts as they are batched, in plain data; shares are of the prompts. Keeps lengths and a hash of
    each prompt, so that there may be millions.

    prompts; tokens: shortest, median, longest; padding: share of positions in batches that hold none;
    duplicates: prompts that are an earlier one again; exchanged: those whose clean and corrupted are an earlier one's
    corrupted and clean; unchanged: those whose corruption changes no token; differ: where the others differ; first:
    the first pair in words.
    """
    lengths: list[int] = []
    seen: set[int] = set()
    count = Counter[str]()
    ends, spans, named = Counter[int](), Counter[str](), Counter[str]()
    widths: list[int] = []
    first = None
    waiting: list[TokenPair] = []
    rooms = chain(sizes, repeat(per_shard))
    room = next(rooms)
    slots = 0
    for token in tokens:
        first = token if first is None else first
        lengths.append(token.length)
        own = hash((token.clean, token.corrupted, *_said(token, "answers", "wrong_answers")))
        other = hash((token.corrupted, token.clean, *_said(token, "wrong_answers", "answers")))
        count["duplicates"] += own in seen
        count["exchanged"] += other in seen and other != own
        seen.add(own)
        places = differing(token)
        count["unchanged"] += not places
        widths += [len(places)] * bool(places)
        ends.update(token.length - place for place in places)
        named.update(token.spans.keys())
        spans.update(
            name
            for name, (start, end) in token.spans.items()
            if any(start <= place < end for place in places)
        )
        waiting.append(token)
        if len(waiting) == room:
            slots += _slots(waiting, batch_size)
            waiting, room = [], next(rooms)
    slots += _slots(waiting, batch_size)
    n = len(lengths)
    return {
        "prompts": n,
        "tokens": _range(lengths),
        "padding": 1 - sum(lengths) / slots if slots else None,
        "duplicates": count["duplicates"],
        "exchanged": count["exchanged"],
        "unchanged": count["unchanged"] / n if n else None,
        "differ": {
            "tokens": _range(widths),
            "spans": {name: spans[name] / named[name] for name in sorted(named)},
            "from_end": {str(end): found / n for end, found in sorted(ends.most_common(SHOWN))},
        },
        "first": None if first is None else shown(first, tokenizer),
    }


def differing(token: TokenPair) -> list[int]:
    """The positions at which clean and corrupted hold other tokens."""
    return [i for i, (a, b) in enumerate(zip(token.clean, token.corrupted, strict=True)) if a != b]


def shown(token: TokenPair, tokenizer: Any) -> dict[str, Any]:
    """A pair as pieces of text, token by token, with the positions that differ and the answers decoded."""
    return {
        "source": token.pair.source,
        "clean": pieces(tokenizer, token.clean),
        "corrupted": pieces(tokenizer, token.corrupted),
        "differs_at": differing(token),
        "answers": _answers(tokenizer, token, "answers"),
        "wrong_answers": _answers(tokenizer, token, "wrong_answers"),
        "spans": {name: list(place) for name, place in token.spans.items()},
        **({"read_after": token.read} if token.read is not None else {}),
        **({"target": token.pair.target} if token.pair.target != "token" else {}),
    }


def _answers(tokenizer: Any, token: TokenPair, which: Literal["answers", "wrong_answers"]) -> list[str]:
    """The answers as the model's tokens spell them; those of several with bars between."""
    if token.sequences is None:
        return pieces(tokenizer, getattr(token, which))
    return ["|".join(pieces(tokenizer, tokens)) for tokens in getattr(token.sequences, which)]


def _said(token: TokenPair, *which: str) -> list[Any]:
    """What a prompt's answers are, of one token each or several."""
    return [getattr(token if token.sequences is None else token.sequences, name) for name in which]


def pieces(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """What each token is as text; its number where there is no tokenizer."""
    if tokenizer is None:
        return [str(token) for token in ids]
    plain = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
    found = [str(tokenizer.decode([token], **plain)) for token in ids]
    names = [str(name) for name in tokenizer.convert_ids_to_tokens(list(ids))]
    # SentencePiece drops the space of a token that stands alone
    return [
        f" {text}" if name.startswith("▁") and not text.startswith(" ") else text
        for text, name in zip(found, names, strict=True)
    ]


def _slots(shard: Sequence[TokenPair], batch_size: int) -> int:
    """Positions in the batches of a shard, padding among them."""
    return sum(len(batch) * batch[-1].length for batch in bucket_by_length(shard, batch_size))


def _range(values: Sequence[int]) -> list[int] | None:
    return [min(values), int(np.median(values)), max(values)] if values else None
