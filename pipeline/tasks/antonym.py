"""Antonyms in context (Todd et al., arXiv 2310.15213).

The opposite of hot is cold. The opposite of big is  ->  small
"""

from typing import ClassVar, Literal

from pipeline.tasks.relation import Relation, table


class Antonym(Relation):
    """`count` prompts that ask for the opposite of a word, after `shots` others with theirs.

    Corruption: another word (`subject`), or the shots' answers exchanged (`shuffled`).
    """

    name: Literal["antonym"] = "antonym"
    paper: ClassVar = "arXiv 2310.15213"
    pairs_known: ClassVar = table("""
        hot cold big small good bad up down left right rich poor fast slow old new high low long short wet dry light
        dark happy sad early late open closed strong weak full empty near far thick thin clean dirty true false
        black white day night love hate win lose buy sell push pull begin end inside outside above below before
        after alive dead male female north south east west war peace heavy light wide narrow deep shallow young old
        top bottom front back brave cowardly sweet sour simple complex possible impossible positive negative
        increase decrease success failure victory defeat rise fall always never more less over under in out on off
""")
    sentences: ClassVar = (("The opposite of {x} is {y}.", " "),)
