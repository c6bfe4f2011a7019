"""How good a circuit is. Faithfulness is always looked at; this list says what else can be. Loads without torch.

Not called `evaluate`: Python would give the package for the public function of that name once it is imported.
"""

from typing import Annotated, TypeAlias

from pipeline.core import plugins
from pipeline.evaluation.across import Across
from pipeline.evaluation.auroc import Auroc
from pipeline.evaluation.base import Chosen, Curve, Evaluation, Found, Subject, Values
from pipeline.evaluation.chance import Chance
from pipeline.evaluation.class_sets import ClassSets
from pipeline.evaluation.clusters import Clusters
from pipeline.evaluation.completeness import Completeness
from pipeline.evaluation.cpr_cmd import CprCmd
from pipeline.evaluation.faithfulness import (
    Recordings,
    circuit_values,
    evaluate,
    faithfulness_of,
    measured,
    selections,
)
from pipeline.evaluation.hypotheses import Hypotheses
from pipeline.evaluation.learning_curve import LearningCurve
from pipeline.evaluation.minimality import Minimality
from pipeline.evaluation.necessity import Necessity
from pipeline.evaluation.null_data import NullData
from pipeline.evaluation.stability import Stability
from pipeline.evaluation.sufficiency import Sufficiency
from pipeline.evaluation.worst_set import WorstSet

EVALUATIONS: tuple[type[Evaluation], ...] = (
    Auroc,
    CprCmd,
    Sufficiency,
    Necessity,
    Minimality,
    Chance,
    Completeness,
    WorstSet,
    ClassSets,
    Stability,
    NullData,
    Hypotheses,
    LearningCurve,
    Across,
    Clusters,
)

# one of these, or of what an installed package adds
EvaluationConfig: TypeAlias = Annotated[Evaluation, plugins.OneOf(EVALUATIONS, plugins.EVALUATIONS)]

__all__ = [
    "EVALUATIONS",
    "Across",
    "Auroc",
    "Chance",
    "Chosen",
    "ClassSets",
    "Clusters",
    "Completeness",
    "CprCmd",
    "Curve",
    "Evaluation",
    "EvaluationConfig",
    "Found",
    "Hypotheses",
    "LearningCurve",
    "Minimality",
    "Necessity",
    "NullData",
    "Recordings",
    "Stability",
    "Subject",
    "Sufficiency",
    "Values",
    "WorstSet",
    "circuit_values",
    "evaluate",
    "faithfulness_of",
    "measured",
    "selections",
]
