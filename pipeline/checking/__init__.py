"""Whether a model has the behaviours of a config, and whether their prompts show it, before anything is computed."""

from pipeline.checking.check import check, tried
from pipeline.checking.facts import prompt_facts

__all__ = ["check", "prompt_facts", "tried"]
