"""Pretended devices: tensors compute on the CPU, but each has a place, and no function may mix two places.

Shows on a machine without GPUs that everything that meets in a computation was moved to one device before.
Tensors without a place (made by functions that know no device, gradients) agree with all. Indices may stay on
the CPU, as torch allows.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakIdKeyDictionary


class MisplacedError(AssertionError):
    """Two tensors of one computation are on different devices."""


_DEVICE = Tensor.device.__get__  # type: ignore[attr-defined]


class Places(TorchFunctionMode):
    """While active, `x.device` and `x.to(device)` tell and change places, and mixing them raises MisplacedError."""

    def __init__(self) -> None:
        super().__init__()
        self.of: Any = WeakIdKeyDictionary()

    def put(self, module: nn.Module, device: torch.device) -> None:
        for tensor in [*module.parameters(), *module.buffers()]:
            self.of[tensor] = device

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func == _DEVICE:
            return self.of.get(args[0], torch.device("cpu"))
        target = kwargs.get("device")
        if func is Tensor.to:
            target = next((a for a in (*args[1:], target) if isinstance(a, str | torch.device)), None)
            args = (args[0], *(a for a in args[1:] if not isinstance(a, str | torch.device)))
            kwargs.pop("device", None)
            if target is not None and len(args) == 1 and not {"dtype"} & kwargs.keys():
                return self._moved(args[0], torch.device(target))
        elif target is not None:
            kwargs["device"] = "cpu"
        if func is torch.autograd.grad:  # a gradient is where its tensor is
            found = func(*args, **kwargs)
            for gradient, tensor in zip(found, args[1] if len(args) > 1 else (), strict=False):
                if isinstance(tensor, Tensor) and tensor in self.of:
                    self._tag(gradient, self.of[tensor])
            return found
        places = self._places(func, args, kwargs)
        if len(places) > 1:
            shapes = [tuple(x.shape) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
            raise MisplacedError(
                f"{getattr(func, '__name__', func)} of {shapes} on {sorted(map(str, places))}"
            )
        out = func(*args, **kwargs)
        place = torch.device(target) if target is not None else next(iter(places), None)
        if place is not None:
            tree_map(lambda x: self._tag(x, place), out)
        return out

    def _tag(self, x: Any, place: torch.device) -> None:
        if isinstance(x, Tensor):
            self.of[x] = place

    def _moved(self, x: Tensor, target: torch.device) -> Tensor:
        if self.of.get(x) == target:
            return x
        out = x.view_as(x)
        self.of[out] = target
        return out

    def _places(self, func: Any, args: Any, kwargs: Any) -> set[torch.device]:
        if func in (Tensor.__getitem__, Tensor.__setitem__):  # indices may lie on the CPU
            args = (args[0], *args[2:])
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor) and x.ndim > 0]
        return {self.of[x] for x in tensors if x in self.of}
