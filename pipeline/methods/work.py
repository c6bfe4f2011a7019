"""What a method works with: a model, batches of prompts, what is measured and what replaces.

Knows how the parts fit together and how scores of prompts are collected. Does not know any method. Loads without torch.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int

from pipeline.ablations import Statistics, ablate, get_ablation
from pipeline.core.scores import EdgeScores, Moments
from pipeline.metrics import get_metric

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.engine.ablated import Ablated
    from pipeline.engine.batch import Batch
    from pipeline.engine.patchable import PatchableModel
    from pipeline.engine.prefix import Prefix
    from pipeline.engine.readout import Objective
    from pipeline.engine.senders import SenderValues


@dataclass(frozen=True)
class Work:
    """One method's work on some prompts. `metric` and `ablation` are None where it needs none."""

    model: "PatchableModel"
    batches: "Sequence[Batch]"
    metric: str | None = None
    ablation: str | None = None
    statistics: Statistics | None = None
    per_prompt: bool = False  # whether every prompt's scores are wanted too
    others: Mapping[str, EdgeScores] = field(default_factory=dict)  # of the methods that it combines, by id

    @property
    def sign(self) -> int:
        """Turns metric(ablated) - metric(clean) into how much worse it got."""
        return get_metric(str(self.metric)).sign

    def having(self, positions: str) -> "Work":
        """The same for the prompts that have these positions, in batches that may be fewer."""
        from pipeline.engine.batch import only_having

        return replace(self, batches=only_having(self.batches, positions))

    def objective(
        self, batch: "Batch", reference: "Float[Tensor, 'prompt *read d_model'] | None" = None
    ) -> "Objective":
        """The metric as a function of final hidden states; `reference` are those of the clean run."""
        return self.model.objective(get_metric(str(self.metric)), batch, reference)

    def ablated(self, batch: "Batch", direction: str = "noising") -> "Ablated":
        """The recorded runs of a batch, and by how much every sender changes."""
        return ablate(self.model, batch, str(self.ablation), self.statistics, direction=direction)

    def corrupted(self, batch: "Batch") -> "tuple[SenderValues | None, Batch, Prefix | None]":
        """What senders write for the corrupted prompts, where that is needed; for which columns of the batch, and what
        runs of them have of those before. Others are left out only where ablation changes nothing in them."""
        ablation = get_ablation(str(self.ablation))
        if ablation.keeps_what_is_equal:
            return self.model.corrupted_senders(batch)
        return (self.model.senders(batch, "corrupted")[0] if ablation.needs_corrupted else None), batch, None


class PromptTable:
    """Collects per-prompt scores batch by batch into moments, and keeps the rows themselves where asked to.

    `there` says which of all prompts are scored; the others are counted nowhere, and their rows are NaN. `only` says
    which entries are measured, and come in this order; the others are NaN, of no prompts."""

    def __init__(
        self,
        n_entries: int,
        there: Bool[np.ndarray, " prompt"],
        *,
        keep: bool,
        only: Int[np.ndarray, " measured"] | None = None,
    ) -> None:
        self._there, self._only = there, only
        nothing = np.full(n_entries, np.nan)
        self.moments = Moments(np.zeros(n_entries, dtype=np.int64), nothing, nothing)
        self._rows: list[np.ndarray] | None = [] if keep else None

    def add(self, rows: Float[np.ndarray, "prompt entry"]) -> None:
        """Rows of the next prompts that are scored: a column for each entry that is measured."""
        part = Moments.of(rows)
        if self._only is not None and len(self._only) < len(self.moments.n):
            part, rows = self._scattered(part, rows)
        self.moments = part if not self.moments.n.any() else Moments.merge([self.moments, part])
        if self._rows is not None:
            self._rows.append(rows)

    def _scattered(self, part: Moments, rows: np.ndarray) -> tuple[Moments, np.ndarray]:
        """The same among all entries."""
        n_entries = len(self.moments.n)
        n = np.zeros(n_entries, dtype=np.int64)
        mean, std, wide = (
            np.full(n_entries, np.nan),
            np.full(n_entries, np.nan),
            np.full((len(rows), n_entries), np.nan),
        )
        n[self._only], mean[self._only], std[self._only], wide[:, self._only] = (
            part.n,
            part.mean,
            part.std,
            rows,
        )
        return Moments(n, mean, std), wide

    @property
    def rows(self) -> Float[np.ndarray, "prompt entry"] | None:
        """A row for each of all prompts, or None where they were not kept."""
        if self._rows is None:
            return None
        rows = np.full((len(self._there), len(self.moments.n)), np.nan)
        rows[self._there] = np.concatenate([rows[:0], *self._rows])
        return rows


def which_have(batches: "Sequence[Batch]", positions: str) -> Bool[np.ndarray, " prompt"]:
    """Which of all prompts have the named positions."""
    none = np.zeros(0, dtype=bool)
    return np.concatenate([none, *(batch.having(positions).cpu().numpy() for batch in batches)])


def in_chunks(values: "Iterator[Tensor]") -> Iterator[Float[np.ndarray, "prompt entry"]]:
    """Chunks of scores as float64 arrays."""
    for chunk in values:
        yield chunk.double().cpu().numpy()
