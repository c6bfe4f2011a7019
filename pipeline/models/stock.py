"""The class of every stock model, and of its attention, without what transformers imports along with them for others.

Knows that transformers' losses of object detection take one function from scipy, which is nearly a tenth of the time
in which a worker imports. Whoever calls it gets it all the same.
"""

import sys
from types import ModuleType
from typing import Any

_SLOW = "scipy.optimize"


def _assignment(*costs: Any, **options: Any) -> Any:
    from scipy.optimize import linear_sum_assignment

    return linear_sum_assignment(*costs, **options)


if _SLOW in sys.modules:
    from transformers import AttentionInterface, PreTrainedModel
else:
    _stand_in = ModuleType(_SLOW)
    _stand_in.linear_sum_assignment = _assignment  # type: ignore[attr-defined]
    sys.modules[_SLOW] = _stand_in
    try:
        from transformers import AttentionInterface, PreTrainedModel
    finally:
        del sys.modules[_SLOW]

__all__ = ["AttentionInterface", "PreTrainedModel"]
