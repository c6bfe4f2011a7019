"""Nodes as people name them, one or many: `a9.h6<q>`, `a9.h6`, `m3`, `logits`, `a9.*`, `a*.h0<v>`.

Knows the names of a graph. Does not know who asks, nor what for. `*` stands for any letters and `?` for one.
"""

import difflib
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache

from pipeline.core.errors import ConfigError
from pipeline.core.graph import Graph


@lru_cache(maxsize=64)  # a plan asks once per item
def receivers_named(graph: Graph, names: tuple[str, ...]) -> tuple[int, ...]:
    """Indices of the receivers that these names stand for, in order. A head's own name stands for all that it reads:
    its queries, keys and values, those of its group where heads share them. ConfigError for a name of none."""
    places: dict[str, list[int]] = {}
    for receiver, node in enumerate(graph.receivers):
        fed = [graph.senders[sender].name for sender in graph.senders_fed_by(receiver)]
        for name in dict.fromkeys([node.name, node.name.partition("<")[0], *fed]):
            places.setdefault(name, []).append(receiver)
    return _named(graph, "receiver", names, places)


@lru_cache(maxsize=64)
def heads_named(graph: Graph, names: tuple[str, ...]) -> tuple[int, ...]:
    """Indices of the senders that are heads and go by these names, in order. ConfigError for a name of none."""
    places = {node.name: [index] for index, node in enumerate(graph.senders) if node.kind == "head"}
    return _named(graph, "head", names, places)


def _named(
    graph: Graph, what: str, names: tuple[str, ...], places: Mapping[str, Sequence[int]]
) -> tuple[int, ...]:
    found: set[int] = set()
    for name in names:
        if name in places:
            found.update(places[name])
            continue
        many = [index for one, indices in places.items() if fnmatchcase(one, name) for index in indices]
        if not many:
            near = difflib.get_close_matches(name, places, n=1, cutoff=0.5)
            hint = (
                f"; did you mean {near[0]!r}?" if near else f"; they are called as {next(iter(places))!r} is"
            )
            raise ConfigError(f"no {what} {name[:80]!r} in this graph ({graph.describe()}){hint}")
        found.update(many)
    return tuple(sorted(found))
