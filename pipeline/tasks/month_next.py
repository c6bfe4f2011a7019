"""The month after a month (a relation of Hernandez et al., arXiv 2308.09124, and Gould et al., arXiv 2312.09230).

The month after June is July. The month after March is  ->  April
"""

from typing import ClassVar, Literal

from pipeline.tasks.relation import Relation
from pipeline.tasks.successor import MONTHS


class MonthNext(Relation):
    """`count` prompts that ask for the month after a month, after `shots` others with theirs.

    Corruption: another month (`subject`), or the shots' answers exchanged (`shuffled`).
    """

    name: Literal["month_next"] = "month_next"
    paper: ClassVar = "arXiv 2308.09124"
    pairs_known: ClassVar = tuple(zip(MONTHS, (*MONTHS[1:], MONTHS[0]), strict=True))
    sentences: ClassVar = (("The month after {x} is {y}.", " "),)
