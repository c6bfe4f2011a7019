"""A batch of tokenised prompt pairs on a device: ids, mask, positions, answers.

Knows padding. Does not know tokenizers or models. Positions are always explicit: with left padding a model's
default positions are silently wrong.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pipeline.core.errors import PromptError
from pipeline.core.prompts import TokenPair

Attention = Literal["causal", "bidirectional"]


@dataclass(frozen=True)
class Batch:
    """Clean and corrupted prompts of one padded length, with the position at which the answer is read.

    `real` is false at padding. `mask_4d` is an additive mask given with the task (bidirectional attention),
    else None and the model's own. Answers are padded with -1.
    """

    prompt_ids: tuple[int, ...]
    clean: Int[Tensor, "prompt pos"]
    corrupted: Int[Tensor, "prompt pos"]
    real: Bool[Tensor, "prompt pos"]
    position_ids: Int[Tensor, "prompt pos"]
    answer_pos: Int[Tensor, " prompt"]
    answers: Int[Tensor, "prompt answer"]
    wrong_answers: Int[Tensor, "prompt wrong"]
    mask_4d: Float[Tensor, "prompt one pos pos"] | None = None

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

    def split(self, size: int) -> "list[Batch]":
        """Parts of at most `size` prompts, in order."""
        return [self._rows(slice(start, start + size)) for start in range(0, self.n_prompts, size)]

    def _rows(self, rows: slice) -> "Batch":
        values = ((field.name, getattr(self, field.name)) for field in fields(self))
        cut: dict[str, Any] = {name: None if value is None else value[rows] for name, value in values}
        return Batch(**cut)


def collate(
    pairs: Sequence[TokenPair],
    *,
    device: torch.device | str = "cpu",
    attention: Attention = "causal",
    padding: Literal["left", "right"] = "right",
    pad_id: int = 0,
) -> Batch:
    """Pads tokenised pairs to one length. The answer is read at the last real position of each prompt."""
    if not pairs:
        raise PromptError("an empty list of prompts makes no batch; give at least one pair")
    length = max(pair.length for pair in pairs)

    def padded(ids: Sequence[int]) -> list[int]:
        fill = [pad_id] * (length - len(ids))
        return [*fill, *ids] if padding == "left" else [*ids, *fill]

    lengths = torch.tensor([pair.length for pair in pairs])
    steps = torch.arange(length)
    real = steps >= (length - lengths)[:, None] if padding == "left" else steps < lengths[:, None]
    return from_ids(
        clean=torch.tensor([padded(pair.clean) for pair in pairs]),
        corrupted=torch.tensor([padded(pair.corrupted) for pair in pairs]),
        answers=_ragged([pair.answers for pair in pairs]),
        wrong_answers=_ragged([pair.wrong_answers for pair in pairs]),
        attention_mask=real,
        prompt_ids=[pair.prompt_id for pair in pairs],
        attention=attention,
        device=device,
    )


def from_ids(
    clean: Int[Tensor, "prompt pos"],
    corrupted: Int[Tensor, "prompt pos"],
    answers: Tensor,
    wrong_answers: Tensor | None = None,
    attention_mask: Tensor | None = None,
    prompt_ids: Iterable[int] | None = None,
    attention: Attention = "causal",
    device: torch.device | str = "cpu",
) -> Batch:
    """A batch from ids. `answers` is [prompt] or [prompt, answer] padded with -1; `attention_mask` is
    [prompt, pos] (nonzero where real, padding on one side) or an additive mask [prompt or 1, 1, pos, pos]."""
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
        **{name: tensor.to(device) for name, tensor in tensors.items()},
    )


def _ragged(rows: Sequence[tuple[int, ...]]) -> Int[Tensor, "prompt answer"]:
    """Rows of different lengths, padded with -1 to at least one column."""
    width = max(1, *(len(row) for row in rows))
    return torch.tensor([[*row, *[-1] * (width - len(row))] for row in rows])
