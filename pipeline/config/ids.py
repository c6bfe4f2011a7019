"""What the entries of a config are called and what they compute; and what of them packages add.

Knows tasks, methods and their parameters. Does not know sections, or which config they are of.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from pipeline.core import plugins
from pipeline.core.errors import ConfigError
from pipeline.core.items import RESERVED_IDS, digest, is_id
from pipeline.evaluation import EVALUATIONS
from pipeline.methods import METHODS, Method
from pipeline.tasks import TASKS, FileTask, Task


def unique_ids(entries: Sequence[Any], section: str) -> list[str]:
    """An id per entry. Derived ids that clash get four hex digits of their parameters' hash each."""
    ids = [entry.id for entry in entries]
    chosen = [entry.as_ for entry in entries]
    counts = Counter(ids)
    unique = []
    for id_, given, entry in zip(ids, chosen, entries, strict=True):
        clashes = given is None and counts[id_] > 1
        unique.append(f"{id_[:75]}-{digest(parameters(entry))[:4]}" if clashes else id_)
    first: dict[str, int] = {}
    for index, id_ in enumerate(unique):
        if not is_id(id_):
            raise ConfigError(
                f"{section}.{index}: id {id_[:100]!r} must be up to 80 of a-z 0-9 . _ - and begin with a letter or "
                "digit; give one, as: ..."
            )
        if id_ in RESERVED_IDS:
            raise ConfigError(
                f"{section}.{index}: the id {id_!r} is taken by the pipeline; give another, as: ..."
            )
        if first.setdefault(id_, index) != index:
            raise ConfigError(
                f"{section}.{index}: id {id_!r} is that of {section}.{first[id_]}; remove one, or as: ..."
            )
    return unique


def contents(task: Task) -> dict[str, Any]:
    """What a task asks: its parameters, but for where its prompts lie."""
    without = {"path"} if isinstance(task, FileTask) else set()
    return {key: value for key, value in parameters(task).items() if key not in without}


def parameters(entry: Task | Method) -> dict[str, Any]:
    """What an entry computes: its parameters without its id, and without where its files lie."""
    without = {"as_"} | (entry.elsewhere if isinstance(entry, Method) else set())
    return {key: value for key, value in entry.model_dump(mode="json").items() if key not in without}


def added(**used: Sequence[str]) -> dict[str, dict[str, str]]:
    """Of the names that are used, by section, those that installed packages add, with the packages."""
    own = {"methods": METHODS, "tasks": TASKS, "evaluations": EVALUATIONS}
    found = {}
    for section, names in used.items():
        known = {cls.model_fields["name"].default for cls in own.get(section, ())}
        packages = {name: plugins.added_by(f"circuits.{section}", name) for name in sorted({*names} - known)}
        found[section] = {name: package for name, package in packages.items() if package}
    return {section: packages for section, packages in found.items() if packages}
