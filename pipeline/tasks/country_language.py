"""The language of a country, in context or without (Todd et al., arXiv 2310.15213; Hernandez et al., 2308.09124).

The official language of Italy is Italian. The official language of France is  ->  French
"""

from typing import ClassVar, Literal

from pipeline.tasks.countries import LANGUAGES
from pipeline.tasks.relation import Relation


class CountryLanguage(Relation):
    """`count` prompts that ask which language most people of a country speak, after `shots` others with theirs.

    Corruption: another country (`subject`), or the shots' languages exchanged (`shuffled`).
    """

    name: Literal["country_language"] = "country_language"
    paper: ClassVar = "arXiv 2308.09124"
    pairs_known: ClassVar = LANGUAGES
    sentences: ClassVar = (("The official language of {x} is {y}.", " "),)
