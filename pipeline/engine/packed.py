"""The rows of a batch that removals can change, side by side: without padding, and without what stands in each prompt
before the first position at which anything is exchanged.

Knows masks and shapes. Does not know graphs or states. What is computed row by row (norms, projections, MLPs) is
computed of packed rows, `[..., one, row, width]`; attention wants those of every prompt, `[..., prompt, pos, width]`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pipeline.engine.ablated import Ablated
from pipeline.engine.executor import Rows
from pipeline.engine.host import to_host
from pipeline.engine.senders import at_answer

# The share of a batch's rows that packing must save: with less it costs what it saves.
_WORTH = 1 / 16
# The numbers of one residual that it must save: the operations that it takes cost as much as arithmetic with fewer.
_LEAST = 1024


@dataclass(frozen=True, eq=False)
class Packing:
    """Which rows are kept of `[..., prompt, pos, width]`; None: all, and nothing is packed."""

    answer_pos: Int[Tensor, "prompt *read"]
    kept: Bool[Tensor, "prompt pos"] | None

    @staticmethod
    def of(ablated: Ablated) -> "Packing":
        """What suffices for removals in a batch that was made ready: the real rows from the first on, in every prompt,
        in which some sender is exchanged for another value, and those at which answers are read."""
        real = ablated.batch.real[:, ablated.start :]
        deltas = ablated.deltas
        changed = (deltas.input != 0).any(-1)
        for z, mlp in zip(deltas.z, deltas.mlp, strict=True):
            changed = changed | (z != 0).flatten(2).any(-1).to(changed.device)
            changed = changed | (mlp != 0).any(-1).to(changed.device)
        changed = changed.cumsum(1) > 0 if _causal(ablated.executor.every) else torch.ones_like(changed)
        read = ablated.answer_pos.view(len(real), -1).to(changed.device)
        kept = (changed & real.to(changed.device)).scatter(1, read, value=True)
        n_kept, n_reads = int(to_host(kept.sum())), read.shape[1]
        # by their number rows at the answer are told from others
        n_saved = kept.numel() - n_kept
        enough = n_saved >= _WORTH * kept.numel() and n_saved * deltas.input.shape[-1] >= _LEAST
        worth = enough and n_kept > n_reads
        return Packing(ablated.answer_pos, kept if worth else None)

    @cached_property
    def _index(self) -> Int[Tensor, " row"]:
        assert self.kept is not None, "something is packed"
        return self.kept.flatten().nonzero().flatten()

    @cached_property
    def _answers(self) -> Int[Tensor, "prompt *read"]:
        """Where the rows at which answers are read are among the packed ones."""
        assert self.kept is not None, "something is packed"
        place = (self.kept.flatten().cumsum(0) - 1).view(self.kept.shape)
        read = self.answer_pos.to(place.device)
        return place.gather(1, read.view(len(read), -1)).view(read.shape)

    def pack(self, x: Float[Tensor, "*lead prompt pos width"]) -> Float[Tensor, "*lead one row width"]:
        """The rows that are kept."""
        if self.kept is None:
            return x
        return x.flatten(-3, -2).index_select(-2, self._index.to(x.device)).unsqueeze(-3)

    def unpack(
        self, x: Float[Tensor, "*lead one row width"], base: Float[Tensor, "*base prompt pos width"]
    ) -> Float[Tensor, "*lead prompt pos width"]:
        """All rows: those of `base` where none is kept."""
        if self.kept is None:
            return x
        lead, shape = x.shape[:-3], base.shape[-3:]
        out = base.expand(*lead, *shape).clone(memory_format=torch.contiguous_format)
        out.flatten(-3, -2).index_copy_(-2, self._index.to(x.device), x.squeeze(-3))
        return out

    def at_answer(self, x: Float[Tensor, "*lead one row width"]) -> Float[Tensor, "*lead prompt read width"]:
        """Of packed rows those at which answers are read."""
        if self.kept is None:
            return at_answer(x, self.answer_pos)
        picked = x.squeeze(-3)[..., self._answers.to(x.device), :]
        return picked.unsqueeze(-2) if self.answer_pos.ndim == 1 else picked

    def rows(self, rows: Rows) -> Rows:
        """What `executor.finish` needs of packed rows: rotary tables."""
        if self.kept is None or rows.rotary is None:
            return rows
        cos, sin = rows.rotary
        return Rows(None, (self.pack(cos), self.pack(sin)), rows.scaling)


def _causal(every: Sequence[Rows]) -> bool:
    """Whether no row of any layer looks at a later one."""
    looked_at: set[int] = set()  # layers share masks
    for mask in (rows.mask for rows in every):
        if mask is None or mask.data_ptr() in looked_at:
            continue
        looked_at.add(mask.data_ptr())
        n_rows, n_keys = mask.shape[-2:]
        later = torch.ones(n_rows, n_keys, dtype=torch.bool, device=mask.device).triu(n_keys - n_rows + 1)
        if bool(to_host((mask[:, later] >= -1e4).any())):
            return False
    return True
