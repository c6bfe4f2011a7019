"""Which prompts make a shard: consecutive ones, or those of like length, with a like share of every template in each.

Knows lengths, names of strata and how much a shard may hold. Does not know prompts, workers or files: the same prompts
and the same wishes give the same shards, whoever computes them.

A prompt's place in its own stratum, as a share of it, decides where it stands among all: that is 0.5 for the one in the
middle of every stratum, so that any stretch holds of each stratum what all of them hold.
"""

from collections import defaultdict
from collections.abc import Hashable, Sequence


def arranged(lengths: Sequence[int], strata: Sequence[Hashable], *, by_length: bool) -> list[int]:
    """The indices of all prompts in the order in which they are cut: strata mixed evenly, and in each the shortest
    first where `by_length`."""
    members: dict[Hashable, list[int]] = defaultdict(list)
    for index, stratum in enumerate(strata):
        members[stratum].append(index)
    places = []
    for number, stratum in enumerate(sorted(members, key=str)):
        inside = members[stratum]
        if by_length:
            inside = sorted(inside, key=lambda index: (lengths[index], index))
        size = len(inside)
        places += [((2 * rank + 1) / (2 * size), number, index) for rank, index in enumerate(inside)]
    return [index for _, _, index in sorted(places)]


def cut(order: Sequence[int], weights: Sequence[float], most: float) -> list[list[int]]:
    """Stretches of an order whose weights sum up to `most` at most, or that are one prompt; each in ascending order."""
    shards: list[list[int]] = []
    held = 0.0
    for index in order:
        if not shards or held + weights[index] > most:
            shards.append([])
            held = 0.0
        shards[-1].append(index)
        held += weights[index]
    return [sorted(shard) for shard in shards]
