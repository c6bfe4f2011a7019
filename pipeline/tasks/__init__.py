"""Behaviours as prompt pairs, generated for any tokenizer or read from files. A task is a file and a word
here; installed packages add theirs (`pipeline.core.plugins`)."""

from typing import Annotated, TypeAlias

from pipeline.core import plugins
from pipeline.tasks.acronym import Acronym
from pipeline.tasks.addition import Addition
from pipeline.tasks.base import Task
from pipeline.tasks.capital import Capital
from pipeline.tasks.coloured_objects import ColouredObjects
from pipeline.tasks.docstring import Docstring
from pipeline.tasks.entity_binding import EntityBinding
from pipeline.tasks.factual_recall import FactualRecall
from pipeline.tasks.gender_pronoun import GenderPronoun
from pipeline.tasks.greater_than import GreaterThan
from pipeline.tasks.induction import Induction
from pipeline.tasks.ioi import Ioi
from pipeline.tasks.label_copy import LabelCopy
from pipeline.tasks.multiple_choice import MultipleChoice
from pipeline.tasks.pairs import FileTask, read_pairs
from pipeline.tasks.relations import AnimalYoung, Antonym, CountryLanguage, MonthNext, PastTense
from pipeline.tasks.subject_verb import SubjectVerb
from pipeline.tasks.successor import Successor
from pipeline.tasks.translation import Translation
from pipeline.tasks.upper_case import UpperCase
from pipeline.tasks.verbatim import Verbatim

TASKS: tuple[type[Task], ...] = (
    FileTask,
    Ioi,
    Induction,
    GreaterThan,
    Docstring,
    SubjectVerb,
    GenderPronoun,
    Capital,
    CountryLanguage,
    MonthNext,
    AnimalYoung,
    Antonym,
    PastTense,
    UpperCase,
    Translation,
    Addition,
    FactualRecall,
    MultipleChoice,
    ColouredObjects,
    Successor,
    Verbatim,
    LabelCopy,
    Acronym,
    EntityBinding,
)

# one of these, or of what an installed package adds
TaskConfig: TypeAlias = Annotated[Task, plugins.OneOf(TASKS, plugins.TASKS)]

__all__ = ["TASKS", "FileTask", "GreaterThan", "Induction", "Ioi", "Task", "TaskConfig", "read_pairs"]
