"""Pretended devices: tensors compute on the CPU, but each has a place, and no function may mix two places.

Shows on a machine without GPUs that everything that meets in a computation was moved to one device before.
What is made from nothing is on the CPU unless a device is named. Tensors without a place (gradients) agree with all.
Indices may stay on the CPU, as torch allows.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


class MisplacedError(AssertionError):
    """Two tensors of one computation are on different devices."""


_DEVICE = Tensor.device.__get__  # type: ignore[attr-defined]
# What is asked of a tensor most often, all by the checks of shapes and types; the answer is no tensor.
_PLAIN = {getattr(Tensor, name).__get__ for name in ("shape", "dtype", "ndim", "requires_grad", "is_cuda")}

# What makes a tensor from nothing: on the CPU, unless a device is named.
MADE = {
    *(
        torch.tensor,
        torch.as_tensor,
        torch.from_numpy,
        torch.arange,
        torch.linspace,
        torch.eye,
        torch.tril_indices,
    ),
    *(
        torch.zeros,
        torch.ones,
        torch.full,
        torch.empty,
        torch.rand,
        torch.randn,
        torch.randint,
        torch.triu_indices,
    ),
}


class Places(TorchFunctionMode):
    """While active, `x.device` and `x.to(device)` tell and change places, and mixing them raises MisplacedError."""

    def put(self, module: nn.Module, device: torch.device) -> None:
        for tensor in [*module.parameters(), *module.buffers()]:
            tensor.place = device

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _PLAIN:
            return func(*args)
        kwargs = dict(kwargs or {})
        if func == _DEVICE:
            return _place(args[0]) or torch.device("cpu")
        target = kwargs.get("device")
        if func is Tensor.to and len(args) > 1 and isinstance(args[1], Tensor):  # to the device of another
            out = func(*args, **kwargs)
            return _moved(out, place) if (place := _place(args[1])) is not None else out
        if func is Tensor.to:
            target = next((a for a in (*args[1:], target) if isinstance(a, str | torch.device)), None)
            args = (args[0], *(a for a in args[1:] if not isinstance(a, str | torch.device)))
            kwargs.pop("device", None)
            if target is not None and len(args) == 1 and not {"dtype"} & kwargs.keys():
                return _moved(args[0], torch.device(target))
        elif target is not None:
            kwargs["device"] = "cpu"
        if func is torch.autograd.grad:  # a gradient is where its tensor is
            found = func(*args, **kwargs)
            for gradient, tensor in zip(found, args[1] if len(args) > 1 else (), strict=False):
                if isinstance(gradient, Tensor) and (place := _place(tensor)) is not None:
                    gradient.place = place
            return found
        places = _places(func, args, kwargs)
        if len(places) > 1:
            shapes = [tuple(x.shape) for x in _tensors((args, kwargs))]
            raise MisplacedError(
                f"{getattr(func, '__name__', func)} of {shapes} on {sorted(map(str, places))}"
            )
        out = func(*args, **kwargs)
        if target is None and func in MADE:
            target = "cpu"
        place = torch.device(target) if target is not None else next(iter(places), None)
        if place is not None:
            for tensor in _tensors(out):
                tensor.place = place
        return out


def _place(x: Any) -> torch.device | None:
    """Where a tensor was put, None for one without a place."""
    return getattr(x, "place", None)


def _moved(x: Tensor, target: torch.device) -> Tensor:
    if _place(x) == target:
        return x
    out = x.view_as(x)
    out.place = target
    return out


def _places(func: Any, args: Any, kwargs: Any) -> set[torch.device]:
    if func in (Tensor.__getitem__, Tensor.__setitem__):  # indices may lie on the CPU
        args = (args[0], *args[2:])
    return {place for x in _tensors((args, kwargs)) if x.ndim > 0 and (place := _place(x)) is not None}


def _tensors(x: Any) -> Iterator[Tensor]:
    """All tensors in nested tuples, lists and dictionaries."""
    if isinstance(x, Tensor):
        yield x
    elif isinstance(x, tuple | list):
        for item in x:
            yield from _tensors(item)
    elif isinstance(x, dict):
        yield from _tensors(list(x.values()))
