"""What a run will do, before anything is computed: items, their keys, passes, rows and memory."""

from pipeline.schedule.make import make_plan
from pipeline.schedule.plan import Plan
from pipeline.schedule.recorded_prompts import Recorded, recorded_prompts
from pipeline.schedule.work_table import evaluation, evaluation_table, work_table

__all__ = [
    "Plan",
    "Recorded",
    "evaluation",
    "evaluation_table",
    "make_plan",
    "recorded_prompts",
    "work_table",
]
