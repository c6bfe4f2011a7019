"""Stock models without their excursions to float32, so that formulas can be compared in float64.

Norms, softmaxes, routers and some rotary embeddings of stock models convert to float32 whatever the model's
precision is. What is left is 1e-7 of rounding, in which an error of that size would hide.
"""

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class Float64Throughout(TorchFunctionMode):
    """While active, a float64 tensor that is asked for as float32, in the ways of stock models, stays float64.

    Conversions that also name a device remain: so the tables of rotary embeddings are made, and those are
    float32 in the formulas too.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if args and isinstance(args[0], Tensor) and args[0].dtype == torch.float64:
            if func is Tensor.float or (func is Tensor.to and args[1:] == (torch.float32,) and not kwargs):
                return args[0]
            if "softmax" in func.__name__ and kwargs.get("dtype") is torch.float32:
                kwargs = {**kwargs, "dtype": torch.float64}
        return func(*args, **kwargs)
