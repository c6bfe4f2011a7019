"""Where the parts of a model are put: accelerate's `device_map`, checked before anything is loaded.

Knows the names that accelerate takes and the devices of this machine. Does not know what is computed there.
"""

from collections.abc import Mapping
from typing import Any

from pipeline.core.errors import ModelError

# What accelerate distributes by itself, and places that need no device.
AUTOMATIC = ("auto", "balanced", "balanced_low_0", "sequential")
ANYWHERE = ("cpu", "disk", "meta")


def check_device_map(name: str, device_map: Any) -> Any:
    """The map to load with: `auto` and its kin are the CPU where there is no GPU. ModelError for a device that
    this machine does not have."""
    import torch

    count = torch.cuda.device_count()
    places = device_map.values() if isinstance(device_map, Mapping) else [device_map]
    for place in places:
        if place in AUTOMATIC and not isinstance(device_map, Mapping):
            return device_map if count else "cpu"
        text = f"cuda:{place}" if isinstance(place, int) else str(place)
        kind, _, index = text.partition(":")
        if kind == "cuda" and (count == 0 or (index.isdigit() and int(index) >= count)):
            has = f"{count} CUDA device{'s' if count != 1 else ''}" if count else "no CUDA device"
            raise ModelError(
                f"model {name!r}: device_map names {text} and this machine has {has}; use 'auto', 'cpu' or one that "
                "is there"
            )
        if kind not in ("cuda", *ANYWHERE):
            try:
                torch.empty(0, device=text)
            except (RuntimeError, AssertionError, NotImplementedError):
                raise ModelError(
                    f"model {name!r}: device_map names {text!r}, which is no device here; use 'auto', 'cpu', 'cuda:0', "
                    "or a mapping of module names to these and 'disk'"
                ) from None
    return device_map
