"""Distributed circuit discovery: model + task + method -> edge scores -> circuit -> faithfulness.

Knows the public names and where each of them lives. A name is imported when it is first used, so that reading
results waits neither for torch nor for Ray.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.config import RunConfig
    from pipeline.core.circuit import Circuit
    from pipeline.core.graph import Graph
    from pipeline.core.prompts import PromptPair
    from pipeline.core.scores import EdgeScores
    from pipeline.engine.patchable import load_model
    from pipeline.evaluation import evaluate
    from pipeline.planning import make_plan
    from pipeline.run import discover
    from pipeline.store.results import load_scores, open_run
    from pipeline.tasks.files import read_pairs

_HOME = {
    "Circuit": "pipeline.core.circuit",
    "EdgeScores": "pipeline.core.scores",
    "Graph": "pipeline.core.graph",
    "PromptPair": "pipeline.core.prompts",
    "RunConfig": "pipeline.config",
    "discover": "pipeline.run",
    "evaluate": "pipeline.evaluation",
    "load_model": "pipeline.engine.patchable",
    "load_scores": "pipeline.store.results",
    "make_plan": "pipeline.planning",
    "open_run": "pipeline.store.results",
    "read_pairs": "pipeline.tasks.files",
}

__all__ = [
    "Circuit",
    "EdgeScores",
    "Graph",
    "PromptPair",
    "RunConfig",
    "discover",
    "evaluate",
    "load_model",
    "load_scores",
    "make_plan",
    "open_run",
    "read_pairs",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":  # read from the installed package when somebody asks
        from importlib.metadata import version

        return version("circuits-pipeline")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME, "__version__"})
