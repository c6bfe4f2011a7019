"""Behaviours as prompt pairs, generated for any tokenizer or read from files. A task is a file and a line."""

from typing import Annotated

from pydantic import Field

from pipeline.tasks.base import Task
from pipeline.tasks.files import FileTask, read_pairs
from pipeline.tasks.greater_than import GreaterThan
from pipeline.tasks.induction import Induction
from pipeline.tasks.ioi import Ioi

TASKS: tuple[type[Task], ...] = (FileTask, Ioi, Induction, GreaterThan)

TaskConfig = Annotated[FileTask | Ioi | Induction | GreaterThan, Field(discriminator="name")]

__all__ = ["TASKS", "FileTask", "GreaterThan", "Induction", "Ioi", "Task", "TaskConfig", "read_pairs"]
