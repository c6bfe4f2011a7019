"""The class of every stock model, and of its attention, without what transformers imports along with them for others.

Knows what that is: torch's compiler, for decorators; a list of all models, made by reading the files of each; scipy,
for one function of losses of object detection; and boto3, for accelerate's questions of a cloud. Whoever calls for one
of them gets it all the same. Is imported before anything else of a model.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch  # noqa: F401 - what stands in for its compiler wants it whole

from pipeline.models.later import Compiler, later, later_within
from pipeline.models.listed import quickly_listed

_SLOW = "scipy.optimize"


def _assignment(*costs: Any, **options: Any) -> Any:
    from scipy.optimize import linear_sum_assignment

    return linear_sum_assignment(*costs, **options)


@contextmanager
def _without_others() -> Iterator[None]:
    later("torch._dynamo", Compiler, {"_trace_wrapped_higher_order_op"})
    later("transformers.models")
    if _SLOW in sys.modules:
        yield
        return
    stand_in = ModuleType(_SLOW)
    stand_in.linear_sum_assignment = _assignment  # type: ignore[attr-defined]
    sys.modules[_SLOW] = stand_in
    try:
        yield
    finally:
        del sys.modules[_SLOW]


with quickly_listed(), _without_others(), later_within("boto3"):
    from transformers import AttentionInterface, AutoModelForCausalLM, PreTrainedModel
    from transformers.activations import NewGELUActivation
    from transformers.masking_utils import AttentionMaskInterface, eager_mask, sdpa_mask
    from transformers.pytorch_utils import Conv1D

__all__ = [
    "AttentionInterface",
    "AttentionMaskInterface",
    "AutoModelForCausalLM",
    "Conv1D",
    "NewGELUActivation",
    "PreTrainedModel",
    "eager_mask",
    "sdpa_mask",
]
