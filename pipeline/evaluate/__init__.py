"""How good a circuit is. Loads without torch.

The public surface has a function of the package's name: `from pipeline import evaluate`. Once this package is
imported, Python gives the package for that name, so the package can be called and passes the call on.
"""

import sys
from types import ModuleType
from typing import Any

from pipeline.evaluate.circuits import circuit_values, evaluate, faithfulness, measured, selections

__all__ = ["circuit_values", "evaluate", "faithfulness", "measured", "selections"]


class _CallablePackage(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return evaluate(*args, **kwargs)


sys.modules[__name__].__class__ = _CallablePackage
