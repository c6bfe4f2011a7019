"""A model that has learnt nothing: what training would begin with, for what a method finds without any behaviour.

Knows transformers' initialisation. Does not know who asks for it. Drawn on the CPU in float32, so that a seed means the
same weights on every device and in every dtype.
"""

from typing import Any

from pipeline.core.errors import ModelError


def forget(model: Any, seed: int) -> None:
    """Puts random weights into a stock model, wherever its own lie. ModelError where some are not in memory."""
    import torch

    from pipeline.models.stock import AutoModelForCausalLM

    if any(parameter.is_meta for parameter in model.parameters()):
        raise ModelError(
            "untrained: needs all weights in memory; take a device_map without disk, or more memory"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = AutoModelForCausalLM.from_config(model.config, dtype=torch.float32)
    drawn = dict(fresh.named_parameters())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(drawn[name])
