"""Dense weights of a layer's projections, wherever accelerate keeps them.

Knows linear layers, accelerate's hooks and devices. Does not know families beyond where q, k and v lie in a
fused projection, nor what is computed with the weights.

On its device a weight is a view and costs nothing. An offloaded one (its parameter is on `meta`) is gathered
onto the device where its layer computes when it is asked for; one layer's are held at a time.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.core.errors import ModelError
from pipeline.models.families import Family
from pipeline.models.stock import Conv1D

Port = Literal["q", "k", "v"]
_PLAIN = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Projections:
    """Weights and biases of q, k and v per (key-value) head, and the output projection per query head."""

    weights: dict[Port, Float[Tensor, "head d_head d_model"]]
    biases: dict[Port, Float[Tensor, "head d_head"] | None]
    out: Float[Tensor, "head d_head d_model"]


@dataclass
class Gathered:
    """The one layer of a model whose offloaded projections are held."""

    owner: "Dense | None" = None
    projections: Projections | None = None


@dataclass(frozen=True, eq=False)
class Dense:
    """The device on which a part computes, and how its dense weights are made."""

    device: torch.device
    make: Callable[[], Projections] | None = None
    views: Projections | None = None
    held: Gathered = field(default_factory=Gathered)

    @staticmethod
    def of_attention(family: Family, attn: nn.Module, n_heads: int, n_kv: int, held: Gathered) -> "Dense":
        """The projections of an attention module; ModelError where they have no dense weight."""
        out = attn.get_submodule(family.out)
        device = device_of(out)

        def make() -> Projections:
            return _projections(family, attn, n_heads, n_kv)

        names = [family.fused] if family.fused is not None else list(family.projections.values())
        modules = [*(attn.get_submodule(name) for name in names), out]
        for module in modules:
            _check_plain(module)
        if any(is_offloaded(module) for module in modules):
            return Dense(device, make, None, held)
        return Dense(device, make, make(), held)

    def projections(self) -> Projections:
        """Views of the weights, or, offloaded, weights that were gathered for this layer."""
        if self.views is not None:
            return self.views
        held = self.held
        if held.owner is not self or held.projections is None:
            assert self.make is not None, "only attention has projections"
            held.owner, held.projections = None, None  # freed before the next layer's are made
            held.projections, held.owner = self.make(), self
        return held.projections

    def tensor(self, module: nn.Module, name: str) -> Tensor:
        """A parameter of a module, on the device where that computes."""
        return _tensor(module, name).to(self.device)


def device_of(module: nn.Module) -> torch.device:
    """Where a module computes: where accelerate runs it, else where its weights are."""
    hook = _align_hook(module)
    if hook is not None and hook.execution_device is not None:
        return torch.device(hook.execution_device)
    return next(module.parameters()).device


def is_offloaded(module: nn.Module) -> bool:
    """Whether a parameter of the module itself waits elsewhere."""
    return any(parameter.is_meta for parameter in module.parameters(recurse=False))


def _align_hook(module: nn.Module) -> Any:
    """accelerate's hook that places the inputs and weights of a module, or None."""
    hook = getattr(module, "_hf_hook", None)
    candidates = getattr(hook, "hooks", (hook,))
    return next((h for h in candidates if hasattr(h, "execution_device")), None)


def _tensor(module: nn.Module, name: str) -> Tensor:
    """A parameter, taken from where accelerate keeps it when its module is offloaded."""
    parameter: Tensor = getattr(module, name)
    if not parameter.is_meta:
        return parameter
    hook = _align_hook(module)
    weights = getattr(hook, "weights_map", None)
    if weights is None:
        raise ModelError(
            f"the weight of a {type(module).__name__} is on no device; load the model with load_model"
        )
    value: Tensor = weights[name]
    return value.to(device_of(module), parameter.dtype)


def _check_plain(module: nn.Module) -> None:
    """Refuses what has no dense weight: quantised layers, layers wrapped by adapters."""
    weight = getattr(module, "weight", None)
    if not isinstance(module, nn.Linear | Conv1D) or not isinstance(weight, Tensor):
        raise ModelError(
            f"a projection is a {type(module).__name__}, not a plain linear layer: merge adapters into the weights "
            "(merge_and_unload) and load the model without quantisation"
        )
    if weight.dtype not in _PLAIN or type(module).__name__ not in (
        "Linear",
        "Conv1D",
        "NonDynamicallyQuantizableLinear",
    ):
        raise ModelError(
            f"a projection is a {type(module).__name__} of {weight.dtype}; load the model without quantisation, as "
            "float32, bfloat16 or float64"
        )


def _matrix(module: nn.Module) -> tuple[Float[Tensor, "out in"], Float[Tensor, " out"] | None]:
    """Weight as `[out, in]` and bias of a plain linear layer."""
    weight = _tensor(module, "weight")
    bias = None if module.bias is None else _tensor(module, "bias")
    return (weight.t() if isinstance(module, Conv1D) else weight), bias


def _projections(family: Family, attn: nn.Module, n_heads: int, n_kv: int) -> Projections:
    counts: dict[Port, int] = {"q": n_heads, "k": n_kv, "v": n_kv}
    if family.fused is not None:
        weight, bias = _matrix(attn.get_submodule(family.fused))
        d_head = weight.shape[0] // sum(counts.values())
        weights = _fused_rows(family, counts, weight.view(-1, d_head, weight.shape[1]))
        biases = _fused_rows(family, counts, None if bias is None else bias.view(-1, d_head))
    else:
        weights, biases = {}, {}
        for port, n in counts.items():
            weight, bias = _matrix(attn.get_submodule(family.projections[port]))
            weights[port] = weight.view(n, weight.shape[0] // n, -1)
            biases[port] = None if bias is None else bias.view(n, -1)
    out = _matrix(attn.get_submodule(family.out))[0].t()
    return Projections(weights, biases, out.view(n_heads, -1, out.shape[1]))


def _fused_rows(family: Family, counts: dict[Port, int], rows: Tensor | None) -> dict[Port, Any]:
    """The heads of q, k and v among the rows `[head, ...]` of a fused projection."""
    if rows is None:
        return dict.fromkeys(counts)
    if family.fused_layout == "interleaved":
        return {port: rows[i :: len(counts)] for i, port in enumerate(counts)}
    return dict(zip(counts, rows.split(list(counts.values())), strict=True))
