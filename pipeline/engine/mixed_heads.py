"""Heads whose sum over a layer is normed by whoever reads it: that sum, with heads exchanged, or of some alone.

Knows recorded runs. Does not know states, nor what is changed.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.engine.recorded import Recorded


class MixedHeads:
    """Those of one batch, layer by layer."""

    def __init__(self, recorded: Recorded) -> None:
        self._recorded = recorded

    def layer_of(self, sender: int) -> int | None:
        """The layer of a head whose readers norm the sum over its layer; None for any other sender."""
        node = self._recorded.graph.senders[sender]
        is_mixed = (
            node.kind == "head" and node.layer is not None and self._recorded.parts.blocks[node.layer].mixed
        )
        return node.layer if is_mixed else None

    def of_layer(self, layer: int, senders: Sequence[int]) -> list[int]:
        """Those of the senders that are such heads of a layer."""
        return [sender for sender in senders if self.layer_of(sender) == layer]

    def sum_without(
        self, layer: int, removed: Sequence[int], like: Float[Tensor, "*variant prompt row d_model"]
    ) -> Float[Tensor, "prompt row d_model"]:
        """What a layer's output projection made in the clean run, with heads exchanged one after the other; of what
        is left alone where removed heads write nothing."""
        if removed and self._recorded.silent:
            return self.sum_of(layer, [head for head in self.heads(layer) if head not in removed], {}, like)
        out = self._recorded.rows_of(self._recorded.clean_attention(layer), like)
        for delta in self._removed_deltas(removed, out.device, like):
            out = out + delta
        return out

    def heads(self, layer: int) -> range:
        """The senders that are heads of a layer."""
        return range(self._recorded.graph.head_sender(layer), self._recorded.graph.mlp_sender(layer))

    def sum_of(
        self,
        layer: int,
        heads: Sequence[int],
        now: Mapping[int, Tensor],
        like: Float[Tensor, "*base prompt row d_model"],
    ) -> Float[Tensor, "*variant prompt row d_model"]:
        """What these heads of a layer write, of which `now` holds some z and the clean run the others, and the bias of
        their projection."""
        recorded = self._recorded
        clean = recorded.rows_of(recorded.clean_attention(layer), like)
        z = {
            head: recorded.rows_of(now[head] if head in now else recorded.clean_output(head), like)
            for head in heads
        }
        out = self.written(layer, z) if z else torch.zeros_like(clean)
        return out if (bias := recorded.parts.blocks[layer].out_bias) is None else out + bias

    def written(
        self, layer: int, z: Mapping[int, Float[Tensor, "*variant prompt row d_head"]]
    ) -> Float[Tensor, "*variant prompt row d_model"]:
        """What the output projection of a layer makes of these heads' z together."""
        first = self.heads(layer).start
        stacked = torch.stack(torch.broadcast_tensors(*z.values()))
        return self._recorded.executor.raw_change(layer, [head - first for head in z], stacked)

    def _removed_deltas(
        self, removed: Sequence[int], device: torch.device, like: Float[Tensor, "*variant prompt row d_model"]
    ) -> Sequence[Tensor]:
        if not removed:
            return ()
        return list(
            self._recorded.deltas(removed, device, all_rows=like.shape[-2] != self._recorded.executor.n_reads)
        )
