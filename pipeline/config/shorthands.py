"""A config as people write it, as the config that is meant: `model: gpt2`, `methods: [EAP-IG]`, `dtype: bf16`.

Knows the shorthands and in which keys other spellings are understood. Does not check: whatever is neither a name nor a
spelling of one is left to who does.
"""

from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any, get_args

from pipeline.ablations import ABLATIONS
from pipeline.config.sections import ModelSection, Store
from pipeline.core.foreign import SUFFIXES as FOUND
from pipeline.core.spelling import meant
from pipeline.methods import METHODS
from pipeline.metrics import METRICS
from pipeline.tasks import TASKS

SUFFIXES = (".jsonl", ".csv", ".json", ".parquet")


def written_out(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """The config with shorthands as sections and with names as they are here. What is written so already stays."""
    config = dict(mapping)
    if isinstance(config.get("model"), str):
        config["model"] = {"name": config["model"]}
    _entries(config, "tasks", _task)
    _entries(config, "methods", _method)
    _names(config, "tasks", [cls.model_fields["name"].default for cls in TASKS])
    _names(config, "methods", [cls.model_fields["name"].default for cls in METHODS])
    _spell(config, "metric", METRICS)
    _spell(config, "ablation", ABLATIONS)
    for section, cls, keys in (("model", ModelSection, ("dtype", "kv")), ("store", Store, ("dtype",))):
        if isinstance(config.get(section), dict):
            config[section] = dict(config[section])
            for key in keys:
                _spell(config[section], key, get_args(cls.model_fields[key].annotation))
    return config


def _task(word: str) -> dict[str, Any]:
    """A task by its name, or a file of prompts by its path."""
    if PurePosixPath(word).suffix.lower() in SUFFIXES:
        return {"name": "file", "path": word}
    return {"name": word}


def _method(word: str) -> dict[str, Any]:
    """A method by its name, or a file of what somebody else found by its path."""
    if PurePosixPath(word).suffix.lower() in FOUND:
        return {"name": "file", "path": word}
    return {"name": word}


def _entries(config: dict[str, Any], key: str, entry: Any) -> None:
    """Makes words of a list sections, and one word alone a list."""
    value = config.get(key)
    if isinstance(value, str):
        value = [value]
    if isinstance(value, list | tuple):
        config[key] = [entry(one) if isinstance(one, str) else one for one in value]


def _names(config: dict[str, Any], key: str, known: Iterable[str]) -> None:
    """Spells the name, the metric and the ablation of every entry of a list."""
    if isinstance(config.get(key), list):
        config[key] = [dict(one) if isinstance(one, dict) else one for one in config[key]]
        for one in config[key]:
            if isinstance(one, dict):
                _spell(one, "name", known)
                _spell(one, "metric", METRICS)
                _spell(one, "ablation", ABLATIONS)


def _spell(section: dict[str, Any], key: str, known: Iterable[str]) -> None:
    if (name := meant(section.get(key), known)) is not None:
        section[key] = name
