"""Products with weights on a CPU, by the kernel that is fastest there.

torch leaves products in float32 to MKL, which on an AMD processor reaches 58 to 91 % of what oneDNN's kernel does that
torch comes with, too (`make bench ROWS=products`). Which of them is asked depends on shapes alone, never on
a clock: the same product is rounded alike in every run on a machine. Knows tensors. Does not know models.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

# Multiplications from which on oneDNN's kernel is worth the 15 us that it takes to be found.
_LEAST = 2**22
_THERE = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def linear(
    x: Float[Tensor, "*lead read"],
    weight: Float[Tensor, "write read"],
    bias: Float[Tensor, " write"] | None = None,
) -> Float[Tensor, "*lead write"]:
    """`torch.nn.functional.linear`, up to rounding; where weights or bias learn it is torch's own."""
    if not _suits(x, weight):
        return functional.linear(x, weight, bias)
    if not torch.is_grad_enabled():
        return _product(x, weight, bias)
    if weight.requires_grad or (bias is not None and bias.requires_grad):
        return functional.linear(x, weight, bias)
    return _Linear.apply(x, weight, bias) if x.requires_grad else _product(x, weight, bias)


def batched(
    left: Float[Tensor, "each row read"], right: Float[Tensor, "each read write"]
) -> Float[Tensor, "each row write"]:
    """`torch.bmm`, up to rounding: large matrices that each lie in one piece, as those of a single prompt do, one by
    one; others are left to torch."""
    if not _suits(left[0], right[0].t()):
        return torch.bmm(left, right)
    return torch.stack([_product(a, b.t(), None) for a, b in zip(left, right, strict=True)])


def quick_modules(like: Tensor, multiplications: int) -> AbstractContextManager[object]:
    """While open, modules of the stock model that read tensors of that device and dtype make large products as `linear`
    does. Those whose products take but so many go without: looking at every call of torch would cost more."""
    worth = (
        multiplications >= _LEAST // 4
        and _THERE
        and like.device.type == "cpu"
        and like.dtype == torch.float32
    )
    return _Quick() if worth else nullcontext()


class _Quick(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        kwargs = kwargs or {}
        if func is functional.linear:
            return linear(*args, **kwargs)
        if func is torch.addmm and not kwargs and args[0].ndim == 1:
            bias, x, weight = args
            return linear(x, weight.t(), bias)
        return func(*args, **kwargs)


class _Linear(torch.autograd.Function):
    """A product whose weights are constant."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (weight,), (gradient,) = ctx.saved_tensors, gradients
        return linear(gradient, weight.t()), None, None


def _suits(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN is asked."""
    return (
        _THERE
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.numel() * weight.shape[0] >= _LEAST
        # what is cut out of a larger matrix goes to a plain loop in it, a thousand times slower
        and (weight.is_contiguous() or weight.t().is_contiguous())
    )


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    rows = x.reshape(-1, x.shape[-1]).contiguous()
    out: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")  # noqa: SLF001 - no other way
    return out.view(*x.shape[:-1], -1)
