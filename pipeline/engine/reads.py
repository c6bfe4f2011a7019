"""Where the answers of a batch are read: after the prompt or a span of it, and, of several tokens, after each one.

    Mary went to  New York        " New York" is read after "to" (New) and after "New" (York), and " New Jersey" after
                  New Jersey      the same "New": a token that continues several answers stands there once

What stands behind a prompt is a tree: a token sees the prompt and those of its own answer that come before it, at the
position which it has in that text. One run of the model reads all answers as a run for each would. Knows pairs in
tokens and padding. Does not know models.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from pipeline.core.prompts import Sequences, TokenPair


def readings(
    pairs: Sequence[TokenPair], real: Bool[Tensor, "prompt pos"], positions: Int[Tensor, "prompt pos"]
) -> dict[str, Tensor]:
    """Those fields of a batch that differ from what they are for answers of one token behind the prompt: `answer_pos`,
    `answer_tokens`, `wrong_tokens`, `position_ids`, and `mask_4d` where answers branch."""
    starts = real.int().argmax(1).tolist()  # padding on the left
    ends = [
        start + (len(p.clean) if p.read is None else p.read + 1)
        for start, p in zip(starts, pairs, strict=True)
    ]
    if all(pair.sequences is None for pair in pairs):
        return {} if all(pair.read is None for pair in pairs) else {"answer_pos": torch.tensor(ends) - 1}
    places = [_columns(pair, start, end) for pair, start, end in zip(pairs, starts, ends, strict=True)]
    used = [
        sorted({column for answers in groups for answer in answers for column, _ in answer})
        for groups in places
    ]
    n_reads, length = max(map(len, used)), real.shape[1]
    if n_reads < length:
        answer_pos = torch.tensor([[*columns, *[columns[-1]] * (n_reads - len(columns))] for columns in used])
    else:
        answer_pos = torch.arange(length).expand(len(pairs), length).contiguous()
    rows = answer_pos.tolist()
    right, wrong = (
        _tokens(
            [
                [[(row.index(c), t) for c, t in one] for one in groups[which]]
                for row, groups in zip(rows, places, strict=True)
            ]
        )
        for which in (0, 1)
    )
    found = {"answer_pos": answer_pos, "answer_tokens": right, "wrong_tokens": wrong}
    found["position_ids"] = _positions(pairs, starts, positions)
    if any(pair.sequences is not None and pair.sequences.branches for pair in pairs):
        found["mask_4d"] = _mask(pairs, starts, real)
    return found


Read = tuple[int, int]  # a column, and the token that is read there


def _columns(pair: TokenPair, start: int, end: int) -> tuple[list[list[Read]], list[list[Read]]]:
    """Of every token of every answer, right and wrong, the column after which it is read."""
    if pair.sequences is None:
        return [[(end - 1, token)] for token in pair.answers], [
            [(end - 1, token)] for token in pair.wrong_answers
        ]
    first = start + len(pair.clean)
    column = {(): end - 1} | {tokens: first + i for i, tokens in enumerate(pair.sequences.forced)}

    def of(answers: Sequence[tuple[int, ...]]) -> list[list[Read]]:
        return [[(column[tokens[:n]], token) for n, token in enumerate(tokens)] for tokens in answers]

    return of(pair.sequences.answers), of(pair.sequences.wrong_answers)


def _tokens(rows: Sequence[Sequence[Sequence[Read]]]) -> Int[Tensor, "prompt answer token two"]:
    """(place, token) of every token, padded with -1."""
    n_answers = max(1, *(len(answers) for answers in rows))
    n_tokens = max([1, *(len(answer) for answers in rows for answer in answers)])
    out = torch.full((len(rows), n_answers, n_tokens, 2), -1)
    for i, answers in enumerate(rows):
        for j, answer in enumerate(answers):
            if answer:
                out[i, j, : len(answer)] = torch.tensor(answer)
    return out


def _forced(pair: TokenPair) -> tuple[tuple[int, ...], ...]:
    return Sequences((), ()).forced if pair.sequences is None else pair.sequences.forced


def _positions(
    pairs: Sequence[TokenPair], starts: Sequence[int], positions: Int[Tensor, "prompt pos"]
) -> Int[Tensor, "prompt pos"]:
    """Every token's place in the text that it belongs to."""
    out = positions.clone()
    for row, (pair, start) in enumerate(zip(pairs, starts, strict=True)):
        for i, tokens in enumerate(_forced(pair)):
            out[row, start + len(pair.clean) + i] = len(pair.clean) + len(tokens) - 1
    return out


def _mask(pairs: Sequence[TokenPair], starts: Sequence[int], real: Bool[Tensor, "prompt pos"]) -> Tensor:
    """What each token sees, as an additive mask: what comes before it, and of the answers its own alone."""
    length = real.shape[1]
    seen = torch.ones(length, length, dtype=torch.bool).tril()[None] & real[:, None, :]
    for row, (pair, start) in enumerate(zip(pairs, starts, strict=True)):
        first, forced = start + len(pair.clean), _forced(pair)
        column = {tokens: first + i for i, tokens in enumerate(forced)}
        for tokens, at in column.items():
            seen[row, at, first:] = False
            seen[row, at, [column[tokens[:n]] for n in range(1, len(tokens) + 1)]] = True
    lowest = torch.finfo(torch.float32).min
    return torch.zeros(len(pairs), 1, length, length).masked_fill(~seen[:, None], lowest)
