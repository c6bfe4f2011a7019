"""How good a circuit is. Loads without torch.

Not called `evaluate`: Python would give the package for the public function of that name once it is imported.
"""

from pipeline.evaluation.faithfulness import circuit_values, evaluate, faithfulness_of, measured, selections

__all__ = ["circuit_values", "evaluate", "faithfulness_of", "measured", "selections"]
