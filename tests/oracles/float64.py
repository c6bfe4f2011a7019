"""Stock models without their excursions to float32, so that formulas can be compared in float64.

Norms, softmaxes, routers and some rotary embeddings of stock models convert to float32 whatever the model's
precision is. What is left is 1e-7 of rounding, in which an error of that size would hide.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn


@contextmanager
def float64_throughout() -> Iterator[None]:
    """While open, a float64 tensor that is asked for as float32, in the ways of stock models, stays float64.

    Conversions that name more than the precision remain: so the tables of rotary embeddings are made, and those
    are float32 in the formulas too.
    """
    to_float, to, softmax = Tensor.float, Tensor.to, nn.functional.softmax

    def patched_float(self, *args, **kwargs):
        return self if self.dtype == torch.float64 else to_float(self, *args, **kwargs)

    def patched_to(self, *args, **kwargs):
        if self.dtype == torch.float64 and args == (torch.float32,) and not kwargs:
            return self
        return to(self, *args, **kwargs)

    def patched_softmax(x, *args, **kwargs):
        if x.dtype == torch.float64 and kwargs.get("dtype") is torch.float32:
            kwargs["dtype"] = torch.float64
        return softmax(x, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tensor, "float", patched_float)
        patch.setattr(Tensor, "to", patched_to)
        patch.setattr(nn.functional, "softmax", patched_softmax)
        yield
