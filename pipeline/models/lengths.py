"""Where a model changes with the length of a prompt: rotary embeddings that count to the longest one.

Knows rotary modules. Does not know batches' ids, graphs or patching.

A rotary embedding of the types `longrope` and `dynamic` takes its frequencies from the largest position of all that
it is called with, and `dynamic` also from those of calls before. What a prompt is scored with must be what the
stock model does with that prompt alone, so such modules are called once per length here.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from pipeline.models.text_limits import FIXED


def rotary_by_length(base: nn.Module) -> tuple[nn.Module, ...]:
    """The rotary modules of a decoder whose tables depend on the longest prompt of a call."""

    def types(module: nn.Module) -> set[str]:
        found = getattr(module, "rope_type", None)
        return set(found.values()) if isinstance(found, dict) else set() if found is None else {found}

    return tuple(module for module in base.modules() if types(module) - FIXED)


@contextmanager
def each_prompt_alone(rotary: Sequence[nn.Module]) -> Iterator[None]:
    """While open, these modules give every prompt of a batch the tables that it gets alone, in a model that has seen
    no other."""
    before = [module.__dict__.get("forward") for module in rotary]
    try:
        for module in rotary:
            module.forward = partial(_by_length, module.forward)
        yield
    finally:
        for module, own in zip(rotary, before, strict=True):
            del module.forward
            if own is not None:  # accelerate has put one there
                module.forward = own


def _by_length(
    forward: Callable[..., tuple[Tensor, Tensor]],
    x: Tensor,
    position_ids: Int[Tensor, "prompt pos"],
    *args: Any,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """cos and sin [prompt, pos, rot] from one call for all prompts of a length."""
    last, rows, tables = position_ids.amax(1), [], []
    for longest in last.unique():
        alike = (last == longest).nonzero().flatten()
        forward(x, torch.zeros_like(position_ids[:1, :1]), *args, **kwargs)  # forgets all longer prompts
        rows.append(alike)
        tables.append(forward(x, position_ids[alike], *args, **kwargs))
    order = torch.cat(rows).argsort()
    cos, sin = (torch.cat(parts)[order] for parts in zip(*tables, strict=True))
    return cos, sin
