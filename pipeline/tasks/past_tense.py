"""The past tense of a verb in context (Todd et al., arXiv 2310.15213).

Today I see, yesterday I saw. Today I go, yesterday I  ->  went
"""

from typing import ClassVar, Literal

from pipeline.tasks.relation import Relation, table


class PastTense(Relation):
    """`count` prompts that ask for the past tense of a verb, after `shots` others with theirs.

    Corruption: another verb (`subject`), or the shots' answers exchanged (`shuffled`).
    """

    name: Literal["past_tense"] = "past_tense"
    paper: ClassVar = "arXiv 2310.15213"
    pairs_known: ClassVar = table("""
        go went see saw take took come came give gave know knew think thought say said tell told find found get got
        make made leave left feel felt keep kept hold held bring brought buy bought teach taught catch caught run ran
        sit sat stand stood speak spoke write wrote drive drove ride rode rise rose fall fell grow grew throw threw
        fly flew draw drew eat ate drink drank sing sang swim swam begin began win won lose lost pay paid sell sold
        send sent spend spent build built sleep slept meet met lead led hear heard choose chose break broke wear wore
        walk walked talk talked play played work worked look looked ask asked call called turn turned start started
        move moved live lived want wanted need needed use used try tried help helped open opened close closed
        learn learned watch watched wait waited change changed follow followed stop stopped carry carried
    """)
    sentences: ClassVar = (
        ("Today I {x}, yesterday I {y}.", " "),
        ("Today they {x}, yesterday they {y}.", " "),
    )
