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
    from pipeline.schedule import make_plan
    from pipeline.schedule.conduct import discover
    from pipeline.store.run.opened import load_scores, open_run
    from pipeline.tasks.pairs import read_pairs

_HOME = {
    "Circuit": "pipeline.core.circuit",
    "EdgeScores": "pipeline.core.scores",
    "Graph": "pipeline.core.graph",
    "PromptPair": "pipeline.core.prompts",
    "RunConfig": "pipeline.config",
    "discover": "pipeline.schedule.conduct",
    "evaluate": "pipeline.evaluation",
    "load_model": "pipeline.engine.patchable",
    "load_scores": "pipeline.store.run.opened",
    "make_plan": "pipeline.schedule",
    "open_run": "pipeline.store.run.opened",
    "read_pairs": "pipeline.tasks.pairs",
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
