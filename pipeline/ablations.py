"""What an ablated sender writes instead: its corrupted value, zero, or a mean. Add one: a row and a function.

Knows names and the mean statistics as plain arrays. Loads without torch; `sender_values` uses a capture's own tensors.

Means are over the *corrupted* prompts of the whole task, in float64: `mean` pools positions and leaves padding out,
`mean_positional` keeps them apart and refuses prompts of different lengths.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.core.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.engine.batch import Batch
    from pipeline.engine.capture import Capture
    from pipeline.engine.patchable import PatchableModel

# Sums over positions (summed by `mean`, kept apart by `mean_positional`) of what every sender writes, and counts:
# "input" [pos, d_model], "z" [layer, pos, head, d_head], "mlp" [layer, pos, d_model], "count" [pos].
Statistics = dict[str, np.ndarray]


@dataclass(frozen=True)
class Ablation:
    """A kind of ablation; `positional` means exist only for prompts of one length."""

    name: str
    needs_statistics: bool = False
    positional: bool = False


ABLATIONS: dict[str, Ablation] = {
    ablation.name: ablation
    for ablation in (
        Ablation("corrupted"),
        Ablation("zero"),
        Ablation("mean", needs_statistics=True),
        Ablation("mean_positional", needs_statistics=True, positional=True),
    )
}


def get_ablation(name: str) -> Ablation:
    """The ablation of that name; ConfigError with the known names otherwise."""
    if name not in ABLATIONS:
        raise ConfigError(f"unknown ablation {name!r}; known ablations: {', '.join(ABLATIONS)}")
    return ABLATIONS[name]


def needs_statistics(name: str) -> bool:
    """True when means over the task's corrupted prompts must be collected first."""
    return get_ablation(name).needs_statistics
