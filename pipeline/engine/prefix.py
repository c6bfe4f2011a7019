"""The columns of a batch in which clean and corrupted prompts are the same, up to the first difference: what comes
after them is run again and again, and they are not.

Under a causal mask everything in them is the same in both runs. Both are run behind them in the same shape, so that
what is the same there too, in a prompt that differs later than others, is the same to the last bit. A run of the
columns after them needs their keys and values, and the masks that the model made for all columns: with these windows,
padding and positions are as they were. Knows batches, keys and masks. Does not know how they are recorded, nor
ablations.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.engine.attending import Past, causal
from pipeline.engine.batch import Batch

# The share of all columns that the equal ones must be: with fewer, the run of all columns costs what is saved in the
# others.
PATCHING, ATTRIBUTION = 0.5, 0.25


@dataclass(frozen=True)
class Prefix:
    """What a run has of the columns before `start`, layer by layer."""

    start: int
    layers: tuple[Past, ...]

    @staticmethod
    def of(layers: Sequence[tuple[Tensor, Tensor, Tensor | None]], start: int) -> "Prefix | None":
        """From keys, values [prompt, head, pos, d_head] and mask [prompt or 1, 1, pos, key] of every layer of a run of
        all columns; no mask is plain causal attention. None where a column before `start` attends to one after it."""
        causal_mask: dict[torch.device, Tensor] = {}
        looked_at: set[int] = set()  # layers share masks
        pasts = []
        for k, v, mask in layers:
            if mask is None:
                if k.device not in causal_mask:
                    causal_mask[k.device] = _causal(k)
                mask = causal_mask[k.device]  # noqa: PLW2901
            elif mask.data_ptr() not in looked_at:
                if not bool((mask[:, :, :start, start:] < -1e4).all()):
                    return None
                looked_at.add(mask.data_ptr())
            pasts.append(Past(k[:, :, :start].detach(), v[:, :, :start].detach(), mask[:, :, start:]))
        return Prefix(start, tuple(pasts))


def _causal(k: Tensor) -> Tensor:
    mask = causal(k)
    return k.new_zeros(1, 1, 1, 1) if mask is None else mask[None, None]


def first_difference(batch: Batch) -> int:
    """The first column in which a clean and a corrupted prompt differ, no later than an answer. More columns are left
    than rows are read of each prompt, where those are several: by their number they are told apart."""
    differ = (batch.clean != batch.corrupted).any(0)
    first = int(differ.int().argmax()) if bool(differ.any()) else batch.length
    several = batch.answer_pos.ndim > 1
    most = max(0, batch.length - batch.answer_pos.shape[1] - 1) if several else batch.length
    return min(first, int(batch.answer_pos.min()), most)


def worth_sharing(batch: Batch, start: int, share: float) -> bool:
    """Whether it pays to run both sides behind `start` alone."""
    return start > 0 and start >= share * batch.length
