"""Relations that differ in words alone, in context or without: a row each.

    A young dog is called a puppy. A young cat is called a  ->  kitten
    The opposite of hot is cold. The opposite of big is  ->  small
    The official language of Italy is Italian. The official language of France is  ->  French
    The month after June is July. The month after March is  ->  April
    Today I see, yesterday I saw. Today I go, yesterday I  ->  went

Knows pairs of words and sentences around them. Does not know how prompts are put together (`tasks.relation`). They are
of Todd et al. (arXiv 2310.15213), Hernandez et al. (arXiv 2308.09124), Gould et al. (arXiv 2312.09230) and Gladkova et
al. (NAACL 2016; in models Merullo et al., arXiv 2305.16130).
"""

from typing import Any, Literal

from pydantic import create_model

from pipeline.tasks.countries import LANGUAGES
from pipeline.tasks.relation import Relation, Table, table
from pipeline.tasks.successor import MONTHS


def _row(
    class_name: str, name: str, asks: str, exchanged: str, paper: str, pairs: Table, *sentences: str
) -> Any:
    """The task of that name, which `asks` for something, after `shots` others."""
    doc = f"`count` prompts that ask {asks}\n\nCorruption: {exchanged} exchanged (`shuffled`)."
    only: Any = Literal.__getitem__(name)
    row = create_model(class_name, __base__=Relation, __module__=__name__, __doc__=doc, name=(only, name))
    row.paper, row.pairs_known, row.sentences = paper, pairs, tuple((sentence, " ") for sentence in sentences)
    return row


AnimalYoung = _row(
    "AnimalYoung",
    "animal_young",
    "what the young of an animal is called, after `shots` other animals.",
    "another animal (`subject`), or the shots' answers",
    "Gladkova et al., NAACL 2016",
    table("""
        dog puppy cat kitten cow calf horse foal sheep lamb goat kid pig piglet bear cub lion cub tiger cub wolf pup
        duck duckling chicken chick deer fawn goose gosling seal pup kangaroo joey swan cygnet frog tadpole hare leveret
        elephant calf whale calf fox cub rabbit bunny owl owlet human baby hen chick butterfly caterpillar bee larva
    """),
    "A young {x} is called a {y}.",
    "A baby {x} is called a {y}.",
)
Antonym = _row(
    "Antonym",
    "antonym",
    "for the opposite of a word, after `shots` others with theirs.",
    "another word (`subject`), or the shots' answers",
    "arXiv 2310.15213",
    table("""
        hot cold big small good bad up down left right rich poor fast slow old new high low long short wet dry light
        dark happy sad early late open closed strong weak full empty near far thick thin clean dirty true false
        black white day night love hate win lose buy sell push pull begin end inside outside above below before
        after alive dead male female north south east west war peace heavy light wide narrow deep shallow young old
        top bottom front back brave cowardly sweet sour simple complex possible impossible positive negative
        increase decrease success failure victory defeat rise fall always never more less over under in out on off
"""),
    "The opposite of {x} is {y}.",
)
CountryLanguage = _row(
    "CountryLanguage",
    "country_language",
    "which language most people of a country speak, after `shots` others with theirs.",
    "another country (`subject`), or the shots' languages",
    "arXiv 2308.09124",
    LANGUAGES,
    "The official language of {x} is {y}.",
)
MonthNext = _row(
    "MonthNext",
    "month_next",
    "for the month after a month, after `shots` others with theirs.",
    "another month (`subject`), or the shots' answers",
    "arXiv 2308.09124",
    tuple(zip(MONTHS, (*MONTHS[1:], MONTHS[0]), strict=True)),
    "The month after {x} is {y}.",
)
PastTense = _row(
    "PastTense",
    "past_tense",
    "for the past tense of a verb, after `shots` others with theirs.",
    "another verb (`subject`), or the shots' answers",
    "arXiv 2310.15213",
    table("""
        go went see saw take took come came give gave know knew think thought say said tell told find found get got
        make made leave left feel felt keep kept hold held bring brought buy bought teach taught catch caught run ran
        sit sat stand stood speak spoke write wrote drive drove ride rode rise rose fall fell grow grew throw threw
        fly flew draw drew eat ate drink drank sing sang swim swam begin began win won lose lost pay paid sell sold
        send sent spend spent build built sleep slept meet met lead led hear heard choose chose break broke wear wore
        walk walked talk talked play played work worked look looked ask asked call called turn turned start started
        move moved live lived want wanted need needed use used try tried help helped open opened close closed
        learn learned watch watched wait waited change changed follow followed stop stopped carry carried
    """),
    "Today I {x}, yesterday I {y}.",
    "Today they {x}, yesterday they {y}.",
)
