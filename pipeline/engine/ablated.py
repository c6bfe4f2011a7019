"""A batch's recorded runs, and the batch made ready for patching: the difference that ablation makes to every sender.

Knows nothing about which ablation it was (`pipeline.ablations` makes these) nor what is done with it.
"""

from dataclasses import dataclass, replace

from jaxtyping import Float, Int
from torch import Tensor

from pipeline.engine.batch import Batch
from pipeline.engine.capture import Capture
from pipeline.engine.executor import Executor
from pipeline.engine.senders import SenderValues


@dataclass(frozen=True)
class Runs:
    """What ablation needs to have recorded, from position `start` on: before it the runs are the same.

    `values` is what every sender writes once it is ablated."""

    clean: Capture
    corrupted: Capture | None
    values: SenderValues
    answer_pos: Int[Tensor, "prompt *read"]
    start: int = 0


@dataclass(frozen=True)
class Ablated:
    """Positions before `start` are the same in both runs and left out: of `base`, `deltas` and `answer_pos`.

    `base` is the run that is patched (clean under noising, corrupted under denoising), `deltas` what a
    patched sender writes minus what it writes in `base`, `clean_hidden` final hidden states at the answer of
    the clean run, with which divergences compare. `silent`: patched senders write nothing."""

    batch: Batch
    base: Capture
    clean_hidden: Float[Tensor, "prompt *read d_model"]
    deltas: SenderValues
    executor: Executor
    answer_pos: Int[Tensor, "prompt *read"]
    start: int = 0
    silent: bool = False

    def only_at(self, positions: str) -> "Ablated":
        """The same with senders exchanged only at the named positions of each prompt (see `Batch.at`)."""
        chosen = self.batch.at(positions)
        return (
            self
            if chosen is None
            else replace(self, deltas=self.deltas.only_at(chosen[:, self.start :]), silent=False)
        )
