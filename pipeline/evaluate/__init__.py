"""How good a circuit is. Loads without torch."""

from pipeline.evaluate.circuits import circuit_values, evaluate, faithfulness, measured, selections

__all__ = ["circuit_values", "evaluate", "faithfulness", "measured", "selections"]
