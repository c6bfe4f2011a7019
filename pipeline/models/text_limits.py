"""How long a text may be until a model treats it otherwise: its rotary embedding changes, or a window cuts.

Knows configs. Loads without torch.
"""

from collections.abc import Sequence
from typing import Any

# Frequencies that depend on nothing but the config. Any other type may look at positions.
FIXED = {"default", "linear", "yarn", "llama3", "proportional"}


def rope_limit(config: Any) -> int | None:
    """The longest prompt, in tokens, before the rotary embedding changes; None where it never does."""
    limits = []
    for rope in _ropes(config):
        if rope.get("rope_type") == "longrope":
            limits.append(rope.get("original_max_position_embeddings"))
        elif rope.get("rope_type") not in FIXED:
            limits.append(config.max_position_embeddings)
    return min((int(limit) for limit in limits if limit is not None), default=None)


def branched_limit(config: Any) -> int | None:
    """The longest text, in tokens, of which several continuations are read in one run as each would be alone: as long
    as no window cuts and no rotary embedding changes. None where any is."""
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if kinds is not None and not any("full" not in kind for kind in kinds):
        window = None
    return min((limit for limit in (window, rope_limit(config)) if limit is not None), default=None)


def _ropes(config: Any) -> Sequence[dict[str, Any]]:
    """The parameters of all rotary embeddings: one for all layers, or one per type of layer."""
    found = getattr(config, "rope_parameters", None) or {}
    return [found] if "rope_type" in found else [rope for rope in found.values() if isinstance(rope, dict)]
