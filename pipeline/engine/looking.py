"""Where heads look: how much of a head's attention goes from one named place of the prompts to another.

Knows recorded runs and spans. Does not know what a place means for a behaviour, nor what a head is called for it.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.core.ways import Way
from pipeline.engine.batch import Batch
from pipeline.engine.capture import LayerRecord

if TYPE_CHECKING:
    from pipeline.engine.patchable import PatchableModel


@torch.no_grad()
def looked(
    model: "PatchableModel", batches: Sequence[Batch], heads: Sequence[tuple[int, int]], ways: Sequence[Way]
) -> Float[np.ndarray, "head way"]:
    """The share of attention of each (layer, head) in the clean prompts, averaged over the tokens of the first place,
    summed over those of the second, and averaged over the prompts that have both; NaN where none has."""
    total, count = np.zeros((len(heads), len(ways))), np.zeros(len(ways))
    for batch in batches:
        layers = model.capture(batch).layers
        places = [_places(batch, way) for way in ways]
        count += [float(there.sum()) for *_, there in places]
        for row, (layer, head) in enumerate(heads):
            pattern = _pattern(layers[layer], head)
            for column, (source, target, there) in enumerate(places):
                reach = torch.einsum("bqk,bq,bk->b", pattern, source.to(pattern), target.to(pattern))
                mean = reach / source.sum(-1).clamp(min=1).to(reach)
                total[row, column] += float(mean[there.to(mean.device)].sum())
    with np.errstate(invalid="ignore"):
        return total / count


def _places(batch: Batch, way: Way) -> tuple[Tensor, Tensor, Tensor]:
    """Masks of both places, and which prompts have both."""
    source, target = (mask for name in (way.source, way.target) if (mask := batch.at(name)) is not None)
    return source, target, source.any(-1) & target.any(-1)


def _pattern(record: LayerRecord, head: int) -> Float[Tensor, "prompt pos key"]:
    """The attention of one head, as `engine.attention.attend` makes it, in float64."""
    context = record.context
    scores = (record.q[:, head] @ record.k[:, head].transpose(-1, -2)).double() * context.scaling
    if context.softcap is not None:
        scores = torch.tanh(scores / context.softcap) * context.softcap
    if context.mask is not None:
        scores = scores + context.mask.double()
    return scores.softmax(-1)
