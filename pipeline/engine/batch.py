"""A batch of tokenised prompt pairs on a device: ids, mask, positions, answers.

Knows padding. Does not know tokenizers or models. Positions are always explicit: with left padding a model's
default positions are silently wrong.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pipeline.core.errors import PromptError
from pipeline.core.prompts import TokenPair, span_name_problem
from pipeline.core.showing import names
from pipeline.engine.reads import readings

Attention = Literal["causal", "bidirectional"]


@dataclass(frozen=True)
class Batch:
    """Clean and corrupted prompts of one padded length, with the position at which the answer is read.

    Where answers have several tokens, their beginnings stand behind the prompt, and `answer_pos` holds all positions
    that are read: as many for every prompt, some of them again, or, where they are as many as there are positions, all
    in order. `answer_tokens` and `wrong_tokens` say of every token of an answer in which of these places it is read
    and which it is, -1 where there is none; `answers` and `wrong_answers` are then the first tokens.

    `real` is false at padding. `spans` are masks by name, all false in a prompt without the span. `mask_4d` is an
    additive mask given with the task (bidirectional attention), else None and the model's own. Answers are padded
    with -1.
    """

    prompt_ids: tuple[int, ...]
    clean: Int[Tensor, "prompt pos"]
    corrupted: Int[Tensor, "prompt pos"]
    real: Bool[Tensor, "prompt pos"]
    position_ids: Int[Tensor, "prompt pos"]
    answer_pos: Int[Tensor, "prompt *read"]
    answers: Int[Tensor, "prompt answer"]
    wrong_answers: Int[Tensor, "prompt wrong"]
    mask_4d: Float[Tensor, "prompt one pos pos"] | None = None
    spans: Mapping[str, Bool[Tensor, "prompt pos"]] = field(default_factory=dict)
    answer_tokens: Int[Tensor, "prompt answer token two"] | None = None
    wrong_tokens: Int[Tensor, "prompt wrong step two"] | None = None

    def __repr__(self) -> str:
        spans = f", spans {names(self.spans)}" if self.spans else ""
        own = "" if self.mask_4d is None else ", a mask of its own"
        return f"Batch({self.n_prompts:,} prompts, {self.length} tokens, on {self.clean.device}{spans}{own})"

    @property
    def n_prompts(self) -> int:
        return self.clean.shape[0]

    @property
    def length(self) -> int:
        return self.clean.shape[1]

    @property
    def attention_mask(self) -> Tensor:
        """What the model is given: the additive 4-D mask if there is one, else ones at real positions."""
        return self.real.long() if self.mask_4d is None else self.mask_4d

    def at(self, positions: str) -> Bool[Tensor, "prompt pos"] | None:
        """Where the named positions are: None for `all`, the answer for `last`, else the span of that name."""
        if positions == "all":
            return None
        if positions == "last":
            steps = torch.arange(self.length, device=self.answer_pos.device)
            if self.answer_pos.ndim == 1:
                return steps == self.answer_pos[:, None]
            return (steps == self._columns_read[..., None]).any(1)
        return self.spans[positions] if positions in self.spans else torch.zeros_like(self.real)

    @property
    def _columns_read(self) -> Int[Tensor, "prompt token"]:
        """The columns at which a token of some answer is read, -1 where there are fewer."""
        tokens = [x.flatten(1, 2) for x in (self.answer_tokens, self.wrong_tokens) if x is not None]
        places, ids = torch.cat(tokens, 1).unbind(-1)
        return torch.where(ids >= 0, self.answer_pos.gather(1, places.clamp(min=0)), -1)

    @property
    def last_read(self) -> Int[Tensor, " prompt"]:
        """Where the text that is looked at ends: the position of it at which an answer is read last."""
        columns = self.answer_pos if self.answer_pos.ndim == 1 else self._columns_read.amax(1)
        return self.position_ids.gather(1, columns.view(-1, 1)).squeeze(1)

    def having(self, positions: str) -> Bool[Tensor, " prompt"]:
        """Which prompts have the named positions."""
        at = self.at(positions)
        return self.real.any(1) if at is None else at.any(1)

    @property
    def n_reads(self) -> int:
        """How many positions of every prompt are read."""
        return 1 if self.answer_pos.ndim == 1 else self.answer_pos.shape[1]

    def since(self, start: int) -> "Batch":
        """The columns from `start` on. Positions stay what they are in the whole prompts."""
        if start == 0:
            return self
        return replace(
            self,
            clean=self.clean[:, start:],
            corrupted=self.corrupted[:, start:],
            real=self.real[:, start:],
            position_ids=self.position_ids[:, start:],
            answer_pos=self.answer_pos - start,
            mask_4d=None if self.mask_4d is None else self.mask_4d[..., start:, start:],
            spans={name: mask[:, start:] for name, mask in self.spans.items()},
        )

    def widened(self, multiple: int) -> "Batch":
        """The same with padding on the right, up to a multiple of so many columns. One of which all columns are read
        stays as it is: by their number they are told apart."""
        more = -self.length % multiple
        if more == 0 or self.n_reads == self.length > 1:
            return self

        def wider(x: Tensor, value: float) -> Tensor:
            return torch.nn.functional.pad(x, (0, more), value=value)

        mask = self.mask_4d
        if mask is not None:  # nobody looks at the new columns, and they look at what the last one looks at
            mask = wider(mask, torch.finfo(mask.dtype).min)
            mask = torch.cat([mask, mask[..., -1:, :].expand(-1, -1, more, -1)], -2)
        last = self.position_ids[:, -1:].expand(-1, more)
        return replace(
            self,
            clean=wider(self.clean, 0),
            corrupted=wider(self.corrupted, 0),
            real=wider(self.real, False),
            position_ids=torch.cat([self.position_ids, last], 1),
            mask_4d=mask,
            spans={name: wider(span, False) for name, span in self.spans.items()},
        )

    def split(self, size: int) -> "list[Batch]":
        """Parts of at most `size` prompts, in order."""
        return [self._rows(slice(start, start + size)) for start in range(0, self.n_prompts, size)]

    def only(self, chosen: Bool[Tensor, " prompt"]) -> "Batch":
        """The chosen prompts, in order."""
        return self if bool(chosen.all()) else self._rows(chosen.nonzero().flatten().tolist())

    def _rows(self, rows: slice | list[int]) -> "Batch":
        def cut(value: Any) -> Any:
            if isinstance(value, Mapping):
                return {name: mask[rows] for name, mask in value.items()}
            if isinstance(value, tuple) and not isinstance(rows, slice):
                return tuple(value[row] for row in rows)
            return None if value is None else value[rows]

        values: dict[str, Any] = {entry.name: cut(getattr(self, entry.name)) for entry in fields(self)}
        return Batch(**values)


def only_having(batches: Sequence[Batch], positions: str) -> list[Batch]:
    """The batches without prompts that lack the named positions, and without those that are empty then."""
    chosen = [(batch, batch.having(positions)) for batch in batches]
    return [batch.only(there) for batch, there in chosen if bool(there.any())]


def collate(
    pairs: Sequence[TokenPair],
    *,
    device: torch.device | str = "cpu",
    attention: Attention = "causal",
    padding: Literal["left", "right"] = "right",
    pad_id: int = 0,
) -> Batch:
    """Pads tokenised pairs to one length. The answer is read at the last real position of each prompt, or where the
    pair says."""
    if not pairs:
        raise PromptError("an empty list of prompts makes no batch; give at least one pair")
    length = max(pair.length for pair in pairs)
    behind = [_last_tokens(pair) for pair in pairs]

    def padded(ids: Sequence[int]) -> list[int]:
        fill = [pad_id] * (length - len(ids))
        return [*fill, *ids] if padding == "left" else [*ids, *fill]

    lengths = torch.tensor([pair.length for pair in pairs])
    steps = torch.arange(length)
    real = steps >= (length - lengths)[:, None] if padding == "left" else steps < lengths[:, None]
    batch = from_ids(
        clean=torch.tensor([padded((*pair.clean, *more)) for pair, more in zip(pairs, behind, strict=True)]),
        corrupted=torch.tensor(
            [padded((*pair.corrupted, *more)) for pair, more in zip(pairs, behind, strict=True)]
        ),
        answers=_ragged([pair.answers for pair in pairs]),
        wrong_answers=_ragged([pair.wrong_answers for pair in pairs]),
        attention_mask=real,
        prompt_ids=[pair.prompt_id for pair in pairs],
        attention=attention,
        device=device,
        spans=_masks(pairs, real),
    )
    found = readings(pairs, real, batch.position_ids.cpu())
    if batch.mask_4d is not None and "answer_tokens" in found:
        raise PromptError("answers of several tokens are read one after the other: attention must be causal")
    moved: dict[str, Any] = {name: tensor.to(device) for name, tensor in found.items()}
    return replace(batch, **moved) if moved else batch


def _last_tokens(pair: TokenPair) -> tuple[int, ...]:
    """What stands behind a prompt: the tokens of its answers that others follow."""
    return () if pair.sequences is None else tuple(tokens[-1] for tokens in pair.sequences.forced)


def from_ids(
    clean: Int[Tensor, "prompt pos"],
    corrupted: Int[Tensor, "prompt pos"],
    answers: Tensor,
    wrong_answers: Tensor | None = None,
    attention_mask: Tensor | None = None,
    prompt_ids: Iterable[int] | None = None,
    attention: Attention = "causal",
    device: torch.device | str = "cpu",
    spans: Mapping[str, Tensor] | None = None,
) -> Batch:
    """A batch from ids. `answers` is [prompt] or [prompt, answer] padded with -1; `attention_mask` is
    [prompt, pos] (nonzero where real, padding on one side) or an additive mask [prompt or 1, 1, pos, pos];
    `spans` are true where a prompt has the span of that name."""
    if clean.shape != corrupted.shape:
        raise PromptError(
            f"clean has shape {tuple(clean.shape)} and corrupted {tuple(corrupted.shape)}; make them equal"
        )
    n_prompts, length = clean.shape
    mask_4d = None
    real = torch.ones(n_prompts, length, dtype=torch.bool)
    if attention_mask is not None and attention_mask.ndim == 4:
        mask_4d = attention_mask.expand(n_prompts, 1, length, length)
    elif attention_mask is not None:
        real = attention_mask.to("cpu").bool()
    if attention == "bidirectional" and mask_4d is None:
        lowest = torch.finfo(torch.float32).min
        mask_4d = torch.zeros(n_prompts, 1, length, length).masked_fill(~real[:, None, None, :], lowest)
    if wrong_answers is None:
        wrong_answers = torch.full((n_prompts, 1), -1)
    masks = {name: _mask(name, mask, real) for name, mask in (spans or {}).items()}
    positions = (real.long().cumsum(1) - 1).clamp(min=0)
    last = (real.long() * torch.arange(1, length + 1)).argmax(1)
    tensors = {
        "clean": clean.long(),
        "corrupted": corrupted.long(),
        "real": real,
        "position_ids": positions,
        "answer_pos": last,
        "answers": answers.long().reshape(n_prompts, -1),
        "wrong_answers": wrong_answers.long().reshape(n_prompts, -1),
    }
    return Batch(
        prompt_ids=tuple(range(n_prompts)) if prompt_ids is None else tuple(prompt_ids),
        mask_4d=None if mask_4d is None else mask_4d.to(device),
        spans={name: mask.to(device) for name, mask in masks.items()},
        **{name: tensor.to(device) for name, tensor in tensors.items()},
    )


def _masks(
    pairs: Sequence[TokenPair], real: Bool[Tensor, "prompt pos"]
) -> dict[str, Bool[Tensor, "prompt pos"]]:
    """The spans of all pairs, by name, moved by the padding on the left."""
    masks: dict[str, Tensor] = {}
    for row, (pair, padding) in enumerate(zip(pairs, real.int().argmax(1).tolist(), strict=True)):
        for name, (first, end) in pair.spans.items():
            mask = masks.setdefault(name, torch.zeros_like(real))
            mask[row, padding + first : padding + end] = True
    return masks


def _mask(name: str, mask: Tensor, real: Bool[Tensor, "prompt pos"]) -> Bool[Tensor, "prompt pos"]:
    if problem := span_name_problem(name):
        raise PromptError(f"the span {name!r} {problem}; rename it")
    mask = mask.to("cpu").bool()
    if mask.shape != real.shape or bool((mask & ~real).any()):
        raise PromptError(
            f"the span {name!r} is not within the prompts; give a mask [prompt, pos] of real tokens"
        )
    return mask


def _ragged(rows: Sequence[tuple[int, ...]]) -> Int[Tensor, "prompt answer"]:
    """Rows of different lengths, padded with -1 to at least one column."""
    width = max(1, *(len(row) for row in rows))
    return torch.tensor([[*row, *[-1] * (width - len(row))] for row in rows])
