"""The input of one receiver with some of what it reads removed.

Knows recorded runs, and heads whose sum is normed by whoever reads it. Does not know what a changed input changes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.core.liveness import Liveness
from pipeline.engine.mixed_heads import MixedHeads
from pipeline.engine.recorded import Recorded


@dataclass(frozen=True)
class Removal:
    """Of the receivers of one state."""

    recorded: Recorded
    mixed: MixedHeads
    liveness: Liveness

    def clean_rows(self, receiver: int) -> Float[Tensor, "prompt row d_model"]:
        """The receiver's input before anything is removed, at the rows that matter."""
        x = self.recorded.clean_input(self.recorded.graph.receivers[receiver])
        return x if self.liveness.needs_all_rows(receiver) else self.recorded.packing.at_answer(x)

    def without(
        self,
        receiver: int,
        x: Float[Tensor, "prompt row d_model"],
        senders: Sequence[int],
        spared: frozenset[int] = frozenset(),
        removed: Sequence[int] = (),
    ) -> Float[Tensor, "variant prompt row d_model"]:
        """The input `x`, without `removed` already, with the first, the first two, ... of `senders` removed too, where
        later ones find those in `spared` still there.

        The differences are added one after the other, never by a parallel scan: the rounding must not depend
        on the device. Where nothing is left, no rounding is left either: a norm would multiply it.
        """
        all_rows = self.liveness.needs_all_rows(receiver)
        deltas = self.recorded.deltas(senders, x.device, all_rows=all_rows)
        if not self.recorded.silent and all(self.mixed.layer_of(sender) is None for sender in senders):
            return _summed(x, deltas, [sender in spared for sender in senders])
        out = torch.empty(len(senders), *x.shape, dtype=x.dtype, device=x.device)
        gone = list(removed)
        sums: dict[int, Tensor] = {}  # of what this receiver reads of a layer's heads, in front of their norm
        for variant, (sender, delta) in enumerate(zip(senders, deltas, strict=True)):
            change, layer = delta, self.mixed.layer_of(sender)
            if layer is not None:
                if layer not in sums:
                    sums[layer] = self.mixed.sum_without(layer, self.mixed.of_layer(layer, gone), x)
                if self.recorded.silent:
                    after = self.mixed.sum_without(layer, self.mixed.of_layer(layer, [*gone, sender]), x)
                else:
                    after = sums[layer] + delta.to(sums[layer].device)
                change = self.recorded.executor.attention_between(layer, sums[layer], after).to(x.device)
            torch.add(x, change, out=out[variant])
            if self.recorded.silent and len(gone) + 1 == self.recorded.graph.senders_read[receiver]:
                out[variant] = self.recorded.rows_of(self.recorded.constants(receiver), x)
            if sender not in spared:
                x = out[variant]
                gone.append(sender)
                if layer is not None:
                    sums[layer] = after
        return out


def _summed(
    x: Float[Tensor, "prompt row d_model"],
    deltas: Float[Tensor, "variant prompt row d_model"],
    spared: Sequence[bool],
) -> Float[Tensor, "variant prompt row d_model"]:
    """`x` with each of some differences, and all of those before it that are not spared, added one after the other."""
    out, first = torch.empty_like(deltas), 0
    for variant, stays in enumerate(spared):
        if not stays or variant == len(spared) - 1:
            torch.add(x, deltas[first : variant + 1], out=out[first : variant + 1])
            x, first = out[variant], variant + 1
    return out
