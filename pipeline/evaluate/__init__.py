"""How good a circuit is. Names are imported when first used, so that reading results loads no torch."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.evaluate.faithfulness import circuit_values, evaluate, faithfulness, selections

__all__ = ["circuit_values", "evaluate", "faithfulness", "selections"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from pipeline.evaluate import faithfulness as module

        return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
