"""Where heads look: how much of a head's attention goes from named places of the prompts to others.

Knows edited runs and spans. Does not know what a place means for a behaviour, nor what a head is called for it.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.core.ways import Way
from pipeline.engine.batch import Batch
from pipeline.engine.edits import Site, run

if TYPE_CHECKING:
    from pipeline.engine.patchable import PatchableModel

_AT_ONCE = 1 << 27  # numbers of attention patterns that are held together


@torch.no_grad()
def shares(
    model: "PatchableModel",
    batch: Batch,
    heads: Sequence[tuple[int, int]],
    sources: Sequence[str],
    targets: Sequence[str],
    which: Literal["clean", "corrupted"] = "clean",
) -> Float[np.ndarray, "prompt head source target"]:
    """The share of attention of each (layer, head): averaged over the tokens of the source, summed over those of the
    target. Nothing goes from or to a place that a prompt does not have."""
    sites = {layer: Site("pattern", layer) for layer, _ in heads}
    size = max(1, _AT_ONCE // max(1, len(sites) * model.graph.n_heads * batch.length**2))
    found = np.zeros((batch.n_prompts, len(heads), len(sources), len(targets)))
    for number, part in enumerate(batch.split(size)):
        patterns = run(model, part, read=tuple(sites.values()), which=which)
        looking, looked_at = _places(part, sources), _places(part, targets)
        looking = looking / looking.sum(-1, keepdim=True).clamp(min=1)
        rows = slice(number * size, number * size + part.n_prompts)
        for column, (layer, head) in enumerate(heads):
            pattern = patterns[sites[layer]][:, head].double()
            reach = torch.einsum(
                "bqk,sbq,tbk->bst", pattern, looking.to(pattern.device), looked_at.to(pattern.device)
            )
            found[rows, column] = reach.cpu().numpy()
    return found


def looked(
    model: "PatchableModel", batches: Sequence[Batch], heads: Sequence[tuple[int, int]], ways: Sequence[Way]
) -> Float[np.ndarray, "head way"]:
    """The share of attention of each (layer, head) in the clean prompts from the first place to the second, averaged
    over the prompts that have both; NaN where none has."""
    sources = list(dict.fromkeys(way.source for way in ways))
    targets = list(dict.fromkeys(way.target for way in ways))
    total, count = np.zeros((len(heads), len(ways))), np.zeros(len(ways))
    for batch in batches:
        found = shares(model, batch, heads, sources, targets)
        for column, way in enumerate(ways):
            there = (batch.having(way.source) & batch.having(way.target)).cpu().numpy()
            share = found[:, :, sources.index(way.source), targets.index(way.target)]
            total[:, column] += share[there].sum(axis=0)
            count[column] += there.sum()
    with np.errstate(invalid="ignore"):
        return total / count


def _places(batch: Batch, names: Sequence[str]) -> Float[Tensor, "place prompt pos"]:
    """1 where a token belongs to a place."""
    masks = [batch.at(name) for name in names]
    return torch.stack([batch.real if mask is None else mask for mask in masks]).double()
