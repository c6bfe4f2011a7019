"""What an ablated sender writes instead: its corrupted value, zero, or a mean. Add one: a row and a function.

Knows names and the mean statistics as plain arrays. Loads without torch; `sender_values` uses a capture's own tensors.

Means are over the *corrupted* prompts of the whole task, in float64: `mean` pools positions and leaves
padding out, `mean_positional` keeps them apart and refuses prompts of different lengths.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.core import plugins
from pipeline.core.documents import suggest
from pipeline.core.errors import ConfigError
from pipeline.core.spelling import spelt

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.engine.ablated import Ablated, Runs
    from pipeline.engine.batch import Batch
    from pipeline.engine.patchable import PatchableModel
    from pipeline.engine.senders import SenderValues

# Sums over positions (summed by `mean`, kept apart by `mean_positional`) of what every sender writes, and
# counts: "input" [pos, d_model], "z" [layer, pos, head, d_head], "mlp" [layer, pos, d_model], "count" [pos].
Statistics = dict[str, np.ndarray]


@dataclass(frozen=True)
class Means:
    """The means of a task, as sender values in the shapes of one batch's."""

    statistics: Statistics
    batch: "Batch"

    def pooled(self, clean: "SenderValues") -> "SenderValues":
        """Over all positions."""
        import torch

        total = self.statistics["count"].sum()
        return _filled(
            clean, self.statistics, lambda x, axis: torch.from_numpy(x.sum(axis, keepdims=True) / total)
        )

    def positional(self, clean: "SenderValues") -> "SenderValues":
        """Position by position. ConfigError for prompts of several lengths."""
        import torch

        count = self.statistics["count"]
        if len(set(count[count > 0].tolist())) > 1:
            raise ConfigError(
                "mean_positional needs prompts of one length; use mean, or a task of one length"
            )
        real = np.maximum(count, 1)

        def mean(sums: np.ndarray, axis: int) -> "Tensor":
            shape = [1] * sums.ndim
            shape[axis] = -1
            values = torch.from_numpy(sums / real.reshape(shape))
            return values.to(self.batch.clean.device).index_select(axis, self.batch.position_ids[0])

        return _filled(clean, self.statistics, mean)


def _filled(
    clean: "SenderValues", sums: Statistics, mean: "Callable[[np.ndarray, int], Tensor]"
) -> "SenderValues":
    """`mean` of the sums of every sender, along the axis of positions."""
    z, mlp = mean(sums["z"], 1), mean(sums["mlp"], 1)
    return clean.filled(mean(sums["input"], 0), tuple(z), tuple(mlp))


Values = Callable[["SenderValues", "SenderValues | None", Means | None], "SenderValues"]


@dataclass(frozen=True)
class Ablation:
    """A kind of ablation: what an ablated sender writes, in words and as a function of the clean run, of the corrupted
    run where it is needed, and of the task's means where these are; `positional` means exist only for prompts of one
    length. One that `keeps_what_is_equal` changes nothing where the clean and the corrupted run are the same, so that
    positions before the first difference need no work."""

    name: str
    writes: str
    values: Values
    needs_corrupted: bool = False
    needs_statistics: bool = False
    positional: bool = False
    keeps_what_is_equal: bool = False


ABLATIONS: dict[str, Ablation] = {
    ablation.name: ablation
    for ablation in (
        Ablation(
            "corrupted",
            "what it writes for the corrupted prompt",
            lambda _, corrupted, __: corrupted,  # type: ignore[arg-type,return-value]  # needed: there
            needs_corrupted=True,
            keeps_what_is_equal=True,
        ),
        Ablation("zero", "nothing", lambda clean, _, __: clean.zeros()),
        Ablation(
            "mean",
            "its mean over all positions of the corrupted prompts",
            lambda clean, _, means: means.pooled(clean),  # type: ignore[union-attr]  # needed: there
            needs_statistics=True,
        ),
        Ablation(
            "mean_positional",
            "its mean over the corrupted prompts at that position; prompts of one length",
            lambda clean, _, means: means.positional(clean),  # type: ignore[union-attr]  # needed: there
            needs_statistics=True,
            positional=True,
        ),
    )
}


def get_ablation(name: str) -> Ablation:
    """The ablation of that name, of this table or of an installed package; ConfigError with the known names
    otherwise."""
    found = ABLATIONS.get(spelt(name, ABLATIONS)) or plugins.load_a(Ablation, plugins.ABLATIONS, name)
    if found is None:
        known = (*ABLATIONS, *plugins.installed(plugins.ABLATIONS))
        raise ConfigError(f"unknown ablation {name!r}{suggest(name, known)}")
    return found


def needs_statistics(name: str) -> bool:
    """True when means over the task's corrupted prompts must be collected first."""
    return get_ablation(name).needs_statistics


def collect_statistics(model: "PatchableModel", batches: "Sequence[Batch]") -> Statistics:
    """Float64 sums over the corrupted prompts of what every sender writes, per position, and the counts.

    Positions count from the first real token, so padding on either side changes nothing.
    """
    parts = [_sums(model, batch) for batch in batches]
    return merge_statistics(parts)


def merge_statistics(parts: Sequence[Statistics]) -> Statistics:
    """Sums over the union of disjoint sets of prompts, in the order given."""
    length = max(len(part["count"]) for part in parts)
    total: Statistics = {}
    for part in parts:
        for name, values in part.items():
            axis = 0 if name in ("input", "count") else 1
            padding = [(0, 0)] * values.ndim
            padding[axis] = (0, length - values.shape[axis])
            padded = np.pad(values, padding)
            total[name] = total[name] + padded if name in total else padded
    return total


def _sums(model: "PatchableModel", batch: "Batch") -> Statistics:
    from pipeline.engine.senders import SenderValues

    values = SenderValues.of(model.capture(batch, "corrupted"))
    shift = batch.position_ids
    n_positions = int(shift.max()) + 1
    real = batch.real

    def summed(x: "Tensor") -> np.ndarray:
        x = x.to(real.device)
        out = x.new_zeros(n_positions, *x.shape[2:]).double()
        out.index_add_(0, shift[real], x[real].double())
        return out.cpu().numpy()

    ones = real.double()[..., None]
    return {
        "input": summed(values.input),
        "z": np.stack([summed(z) for z in values.z]),
        "mlp": np.stack([summed(mlp) for mlp in values.mlp]),
        "count": summed(ones)[:, 0],
    }


def ablated_values(
    name: str,
    clean: "SenderValues",
    corrupted: "SenderValues | None",
    statistics: Statistics | None,
    batch: "Batch",
) -> "SenderValues":
    """What every sender writes once it is ablated, in the shapes of `clean`."""
    ablation = get_ablation(name)
    if ablation.needs_corrupted and corrupted is None:
        raise ValueError(f"ablation {name!r} needs the corrupted run")
    if ablation.needs_statistics and statistics is None:
        raise ConfigError(f"ablation {name!r} needs statistics: pass collect_statistics(model, batches)")
    return ablation.values(clean, corrupted, None if statistics is None else Means(statistics, batch))


def ablate(
    model: "PatchableModel",
    batch: "Batch",
    name: str,
    statistics: Statistics | None = None,
    *,
    direction: str = "noising",
) -> "Ablated":
    """Records the runs that `name` needs and takes the difference.

    `denoising` exchanges the two runs, and exists for `corrupted` alone.
    """
    from pipeline.engine.ablated import Ablated
    from pipeline.engine.senders import SenderValues

    name = get_ablation(name).name
    runs = record(model, batch, name, statistics)
    base, clean_values, ablated = runs.clean, SenderValues.of(runs.clean), runs.values
    if direction == "denoising":
        if runs.corrupted is None:
            raise ConfigError("denoising restores clean values in the corrupted run: set ablation: corrupted")
        base, clean_values, ablated = runs.corrupted, ablated, clean_values
    deltas = ablated.minus(clean_values, batch.real[:, runs.start :])
    executor = model.executor(base, runs.answer_pos)
    hidden = executor.answer_hidden(runs.clean)
    silent = name == "zero"
    return Ablated(batch, base, hidden, deltas, executor, runs.answer_pos, runs.start, silent)


def record(
    model: "PatchableModel", batch: "Batch", name: str, statistics: Statistics | None = None
) -> "Runs":
    """The runs that `name` needs (the corrupted one only where it is used), without the positions before the first
    difference where these stay as they are, and what every sender writes once it is ablated."""
    from pipeline.engine.ablated import Runs
    from pipeline.engine.prefix import PATCHING, first_difference, worth_sharing
    from pipeline.engine.senders import SenderValues

    ablation = get_ablation(name)
    clean, corrupted, prefix, start = model.capture(batch, "clean"), None, None, 0
    if ablation.keeps_what_is_equal:
        start = first_difference(batch)
        prefix = clean.prefix(start)
        start = 0 if prefix is None else start
    if ablation.needs_corrupted:
        if worth_sharing(batch, start, PATCHING):
            later = batch.since(start)
            clean, corrupted = (model.capture(later, which, prefix) for which in ("clean", "corrupted"))
            model.counters.forward_passes -= batch.n_prompts  # what is equal was run once for both sides
        else:
            clean, corrupted = clean.window(start), model.capture(batch, "corrupted").window(start)
    other = None if corrupted is None else SenderValues.of(corrupted)
    values = ablated_values(name, SenderValues.of(clean), other, statistics, batch)
    return Runs(clean, corrupted, values, batch.answer_pos - start, start)
