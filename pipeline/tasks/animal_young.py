"""What the young of an animal is called, in context or without (a relation of the Google analogy kind, Gladkova et al.,
NAACL 2016; in models Merullo et al., arXiv 2305.16130).

    A young dog is called a puppy. A young cat is called a  ->  kitten
"""

from typing import ClassVar, Literal

from pipeline.tasks.relation import Relation, table


class AnimalYoung(Relation):
    """`count` prompts that ask what the young of an animal is called, after `shots` other animals.

    Corruption: another animal (`subject`), or the shots' answers exchanged (`shuffled`).
    """

    name: Literal["animal_young"] = "animal_young"
    paper: ClassVar = "Gladkova et al., NAACL 2016"
    pairs_known: ClassVar = table("""
        dog puppy cat kitten cow calf horse foal sheep lamb goat kid pig piglet bear cub lion cub tiger cub wolf pup
        duck duckling chicken chick deer fawn goose gosling seal pup kangaroo joey swan cygnet frog tadpole hare leveret
        elephant calf whale calf fox cub rabbit bunny owl owlet human baby hen chick butterfly caterpillar bee larva
    """)
    sentences: ClassVar = (
        ("A young {x} is called a {y}.", " "),
        ("A baby {x} is called a {y}.", " "),
    )
