"""Circuits that papers found in models that anyone can have, as tables: what `Task.truth` says.

Knows heads, MLPs and the models they are of. Does not know prompts or scores.

A model is known by its shape (layers, heads, width) and by its name: its name on the hub, or, of a folder, what the
folder is called. The weights of a folder are not looked at: one called `gpt2` that holds something else of that shape
is taken for it.

Where MLPs are no part of a paper's claim, as of the IOI circuit, what a head reads of `input` it also reads of the MLPs
before it, and what it writes to `logits` it also writes to the MLPs after it: the paper's path patching lets those
compute on what reaches them, and an edge here is direct.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.errors import CircuitsError
from pipeline.core.graph import Graph

Heads = tuple[tuple[int, int], ...]  # (layer, head)


@dataclass(frozen=True)
class Origin:
    """A model in which circuits were found: its names and its shape."""

    names: tuple[str, ...]
    n_layers: int
    n_heads: int
    d_model: int

    def has_shape_of(self, graph: Graph) -> bool:
        """Whether a graph is as large as this one's."""
        shape = (graph.n_layers, graph.n_heads, graph.n_kv_heads, graph.parallel)
        if shape != (self.n_layers, self.n_heads, self.n_heads, False):
            return False
        return graph.d_model is None or graph.d_model == self.d_model

    def is_of(self, graph: Graph, model: str) -> bool:
        """Whether a run's model and graph are this one."""
        if not self.has_shape_of(graph):
            return False
        folder = Path(model)
        if folder.is_dir():
            return folder.resolve().name in {name.rpartition("/")[2] for name in self.names}
        return model in self.names


GPT2 = Origin(("gpt2", "openai-community/gpt2"), 12, 12, 768)
GPT2_MEDIUM = Origin(("gpt2-medium", "openai-community/gpt2-medium"), 24, 16, 1024)
ATTN_ONLY_4L = Origin(("attn-only-4l", "NeelNanda/Attn_Only_4L512W_C4_Code"), 4, 8, 512)

# Wang et al. 2022, arXiv 2211.00593, figure 2 and section 3
IOI: Mapping[str, Heads] = {
    "previous token": ((2, 2), (4, 11)),
    "duplicate token": ((0, 1), (0, 10), (3, 0)),
    "induction": ((5, 5), (5, 8), (5, 9), (6, 9)),
    "S-inhibition": ((7, 3), (7, 9), (8, 6), (8, 10)),
    "name mover": ((9, 6), (9, 9), (10, 0)),
    "backup name mover": ((9, 0), (9, 7), (10, 1), (10, 2), (10, 6), (10, 10), (11, 2), (11, 9)),
    "negative name mover": ((10, 7), (11, 10)),
}
_MOVERS = ("name mover", "backup name mover", "negative name mover")

# Hanna et al. 2023, arXiv 2305.00586, section 3
GREATER_THAN: Mapping[str, Heads] = {
    "year, to the middle": ((0, 3), (0, 5)),
    "year": ((0, 1),),
    "middle": ((5, 5), (6, 1), (6, 9), (7, 10), (8, 11), (9, 1)),
}
EARLY_MLPS, LATE_MLPS = range(4), range(8, 12)

# Heimersheim and Janiak 2023, "A circuit for Python docstrings in a 4-layer attention-only transformer"
DOCSTRING_MOVERS: Heads = ((3, 0), (3, 6))

# García-Carrasco et al. 2024, arXiv 2405.04156: heads alone
ACRONYM: Mapping[str, Heads] = {
    "previous token": ((1, 0), (2, 2), (4, 11)),
    "letter": ((5, 8),),
    "letter mover": ((8, 11), (9, 9), (10, 10), (11, 4)),
}

# Merullo et al. 2024, arXiv 2310.08744: heads alone
COLOURED_OBJECTS: Mapping[str, Heads] = {
    "duplicate token": ((6, 4),),
    "induction": ((9, 3),),
    "content gatherer": ((11, 6), (11, 7), (12, 15)),
    "mover": ((15, 14), (16, 15), (17, 4), (18, 5), (19, 15)),
}

_BY_PAPER: Mapping[str, tuple[Origin, Mapping[str, Heads]]] = {
    "ioi": (GPT2, IOI),
    "greater_than": (GPT2, GREATER_THAN),
    "acronym": (GPT2, ACRONYM),
    "coloured_objects": (GPT2_MEDIUM, COLOURED_OBJECTS),
}


def classes_of(behaviour: str, graph: Graph) -> dict[str, tuple[str, ...]]:
    """The heads of each class that a paper tells apart, by name, in a model of the paper's shape; the MLPs of
    `greater_than` in two classes. CircuitsError for a graph of another shape."""
    origin, classes = _BY_PAPER[behaviour]
    if not origin.has_shape_of(graph):
        raise CircuitsError(
            f"the classes of {behaviour} are heads of {origin.names[0]} ({origin.n_layers} layers of "
            f"{origin.n_heads} heads, width {origin.d_model}), and this model has another shape: write `groups`"
        )
    found = {one: _heads(graph, {one: heads}) for one, heads in classes.items()}
    if behaviour == "greater_than":
        mlps = {"early MLP": EARLY_MLPS, "late MLP": LATE_MLPS}
        found |= {
            one: tuple(graph.senders[graph.mlp_sender(layer)].name for layer in layers)
            for one, layers in mlps.items()
        }
    return found


def ioi(graph: Graph, model: str) -> tuple[str, ...] | None:
    """The edges of the IOI circuit of GPT-2 small between its 26 heads, and through the MLPs around them."""
    if not GPT2.is_of(graph, model):
        return None
    mlps = [graph.mlp_sender(layer) for layer in range(graph.n_layers)]
    into_mlps = [graph.mlp_receiver(layer) for layer in range(graph.n_layers)]
    before, after = [0, *mlps], [*into_mlps, graph.logits_receiver]

    def writes(*classes: str) -> list[int]:
        return [graph.head_sender(*head) for one in classes for head in IOI[one]]

    def reads(ports: str, *classes: str) -> list[int]:
        return list(_ports(graph, (head for one in classes for head in IOI[one]), ports))

    return _named(
        graph,
        (before, reads("qkv", "previous token", "duplicate token")),
        (before, reads("q", "S-inhibition")),
        (before, reads("kv", *_MOVERS)),
        (writes("previous token"), reads("kv", "induction")),
        (writes("induction", "duplicate token"), reads("kv", "S-inhibition")),
        (writes("S-inhibition"), reads("q", *_MOVERS)),
        (writes(*_MOVERS), after),
        (before, into_mlps),
        (mlps, [graph.logits_receiver]),
    )


def greater_than(graph: Graph, model: str) -> tuple[str, ...] | None:
    """The edges of the greater-than circuit of GPT-2 small: nine heads, and eight MLPs that are part of the claim."""
    if not GPT2.is_of(graph, model):
        return None
    writes = {name: [graph.head_sender(*head) for head in heads] for name, heads in GREATER_THAN.items()}
    reads = {name: list(_ports(graph, heads, "qkv")) for name, heads in GREATER_THAN.items()}
    early, late = ([graph.mlp_sender(layer) for layer in layers] for layers in (EARLY_MLPS, LATE_MLPS))
    into_early, into_late = (
        [graph.mlp_receiver(layer) for layer in layers] for layers in (EARLY_MLPS, LATE_MLPS)
    )
    year, direct, middle = writes["year"], writes["year, to the middle"], writes["middle"]
    return _named(
        graph,
        ([0], [*reads["year"], *reads["year, to the middle"], *into_early]),
        ([*year, *early], into_early),
        ([*year, *direct, *early], reads["middle"]),
        ([*middle, *late], [*into_late, graph.logits_receiver]),
    )


def docstring(graph: Graph, model: str) -> tuple[str, ...] | None:
    """The edges of the docstring circuit: the head a0.h5 carries on what stands at its own position, so that whoever
    reads the input there reads it too."""
    if not ATTN_ONLY_4L.is_of(graph, model):
        return None
    carried = graph.head_sender(0, 5)
    here, definition = [0, carried], graph.head_sender(1, 4)
    movers = [graph.head_sender(*head) for head in DOCSTRING_MOVERS]

    def into(head: tuple[int, int], ports: str) -> list[int]:
        return list(_ports(graph, (head,), ports))

    return _named(
        graph,
        ([0], [*into((0, 5), "v"), *into((1, 4), "v")]),
        ([carried], into((1, 4), "v")),
        (here, [*into((2, 0), "qk"), *into((1, 2), "qk")]),
        ([definition], [*into((2, 0), "v"), *_ports(graph, DOCSTRING_MOVERS, "q")]),
        ([graph.head_sender(1, 2), graph.head_sender(2, 0)], list(_ports(graph, DOCSTRING_MOVERS, "k"))),
        (here, list(_ports(graph, DOCSTRING_MOVERS, "v"))),
        (movers, [graph.logits_receiver]),
    )


def acronym(graph: Graph, model: str) -> tuple[str, ...] | None:
    """The heads of the acronym circuit of GPT-2 small."""
    return _heads(graph, ACRONYM) if GPT2.is_of(graph, model) else None


def coloured_objects(graph: Graph, model: str) -> tuple[str, ...] | None:
    """The heads of the circuit of GPT-2 medium for coloured objects."""
    return _heads(graph, COLOURED_OBJECTS) if GPT2_MEDIUM.is_of(graph, model) else None


def _heads(graph: Graph, classes: Mapping[str, Heads]) -> tuple[str, ...]:
    indices = sorted(graph.head_sender(*head) for heads in classes.values() for head in heads)
    return tuple(graph.senders[index].name for index in indices)


def _ports(graph: Graph, heads: Iterable[tuple[int, int]], ports: str) -> Iterator[int]:
    """The receivers of these ports of heads."""
    for layer, head in heads:
        if "q" in ports:
            yield graph.head_receiver(layer, "q", head)
        if "k" in ports:
            yield graph.head_receiver(layer, "k", head)
        if "v" in ports:
            yield graph.head_receiver(layer, "v", head)


def _named(graph: Graph, *groups: tuple[list[int], list[int]]) -> tuple[str, ...]:
    """The edges from every sender of a group to every receiver of it that reads it, by name, each once."""
    ids = {
        int(graph.first_edge[receiver]) + sender
        for senders, receivers in groups
        for receiver in receivers
        for sender in senders
        if sender < graph.senders_read[receiver]
    }
    return tuple(graph.edge_name(index) for index in sorted(ids))
