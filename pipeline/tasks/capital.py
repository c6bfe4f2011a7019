"""The capital of a country, in context or without (Hendel et al., arXiv 2310.15916; Merullo et al., arXiv 2305.16130).

The capital of Italy is Rome. The capital of France is  ->  Paris
"""

from typing import ClassVar, Literal

from pydantic import Field

from pipeline.tasks.countries import CAPITALS
from pipeline.tasks.relation import Relation, Table


class Capital(Relation):
    """`count` prompts that ask for the capital of a country, after `shots` other countries with theirs.

    Corruption: another country (`subject`), or the shots' capitals exchanged (`shuffled`).
    """

    name: Literal["capital"] = "capital"
    paper: ClassVar = "arXiv 2305.16130"
    pairs_known: ClassVar = CAPITALS
    shots: int = Field(default=5, ge=0, le=50)

    @property
    def spoken(self) -> Table:
        """Without shots, a sentence that says that a city is meant."""
        sentence = "The capital of {x} is {y}." if self.shots else "The capital of {x} is the city of {y}."
        return ((sentence, " "),)
