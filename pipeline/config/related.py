"""How the tasks of a run stand to each other: which judge the circuits of which, and which are null data of another.

Knows tasks by their ids. Does not know prompts, nor what is judged.
"""

from collections.abc import Mapping
from typing import Any

from pipeline.config.sections import Until
from pipeline.tasks import FileTask, Task
from pipeline.tasks.base import GeneratedTask


def judges_of(task: str, tasks: Mapping[str, Task]) -> tuple[str, ...]:
    """The tasks whose prompts judge the chosen circuits of this one: what is held out of it, else itself."""
    held = tuple(id_ for id_, other in tasks.items() if other.held_out_of == task)
    return held or (task,)


def null_of(task: str, tasks: Mapping[str, Task]) -> str | None:
    """The task's null data: another task that says the same, but with the answers of other prompts."""

    def said(one: Task) -> dict[str, Any]:
        apart = {"as_", "answers", "held_out", "held_out_of", "side"}
        return {key: value for key, value in one.model_dump().items() if key not in apart}

    found = {id_: one for id_, one in tasks.items() if one.held_out_of is None}
    if task not in found or found[task].answers != "own":
        return None
    null = (id_ for id_, one in found.items() if one.answers != "own" and said(one) == said(found[task]))
    return next(null, None)


def at_most(task: Task, until: Until | None) -> Task:
    """A task with all prompts that it may get: those of `until`, unless they only judge."""
    if until is None or task.held_out_of is not None:
        return task
    if isinstance(task, GeneratedTask):
        return task.model_copy(update={"count": until.max_prompts})
    if isinstance(task, FileTask):
        return task.model_copy(update={"limit": min(until.max_prompts, task.limit or until.max_prompts)})
    return task
