"""What a run will do, before anything is computed: items, their keys, passes, rows and memory."""

from pipeline.planning.make import make_plan
from pipeline.planning.plan import Plan
from pipeline.planning.recorded import Recorded, recorded_prompts
from pipeline.planning.work import evaluation, evaluation_table, work_table

__all__ = [
    "Plan",
    "Recorded",
    "evaluation",
    "evaluation_table",
    "make_plan",
    "recorded_prompts",
    "work_table",
]
