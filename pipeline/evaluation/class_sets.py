"""Whether the circuit is all that does the work, class by class: does it lose as much as the model when both lose all
that is of one class?

As `completeness`, with the classes of the circuit for K, as the IOI paper does with its classes of heads (Wang et al.
2022, arXiv 2211.00593). Of any circuit is known in which layer a node lies, what kind of node it is, by which port an
edge is read and whether the task's known circuit has it. What else is a class `groups` says, or a paper (`published`):
name movers, S-inhibition heads. Nodes are lost with all edges out of them; edges are lost where the circuit has them.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Literal, TypeAlias

import numpy as np
from jaxtyping import Bool
from pydantic import Field

from pipeline.core.circuit import Circuit
from pipeline.core.graph import Graph, Node
from pipeline.core.prompts import SPAN_NAME
from pipeline.core.text import OneLine
from pipeline.evaluation.base import Subject
from pipeline.evaluation.completeness import Incompleteness, Sets, nodes_of, out_of
from pipeline.tasks.published import classes_of

Class = Literal["layer", "kind", "port", "truth"]
Mask: TypeAlias = Bool[np.ndarray, " edge"]
Named: TypeAlias = Iterator[tuple[str, Mask]]


class ClassSets(Incompleteness):
    """How far circuit and model are apart, in shares of the behaviour, without nothing (`whole`) and without the
    circuit's nodes or edges of each class: median, largest."""

    name: Literal["class_sets"] = "class_sets"
    by: tuple[Class, ...] = Field(
        default=("kind", "port"),
        description="layer, kind: of nodes; port: q, k, v, mlp or logits, of edges; truth: in the known circuit or not",
    )
    published: Literal["ioi", "greater_than", "acronym", "coloured_objects"] | None = Field(
        default=None, description="the classes of heads of a paper, in a model of the paper's shape"
    )
    groups: Mapping[Annotated[str, Field(pattern=SPAN_NAME.pattern)], tuple[OneLine, ...]] = Field(
        default={}, description="classes of your own by name, each a list of nodes or edges"
    )

    def n_circuits(self, graph: Graph, *, decides: bool) -> int:
        """The circuit, and circuit and model without each class. CircuitsError where a group names what the graph
        lacks, or the paper's model has another shape."""
        groups = self._named(graph)
        _ = [_members(graph, group) for group in groups.values()]
        sizes = {"layer": graph.n_layers, "kind": 2, "port": 5, "truth": 2}
        return 1 + 2 * (sum(sizes[one] for one in self.by) + len(groups))

    def sets(self, subject: Subject) -> Sets:
        """The edges of each class that the circuit has some of, by what the class is called."""
        circuit = subject.the_circuit
        found = {name: gone for one in self.by for name, gone in _CLASSES[one](subject)}
        for name, group in self._named(circuit.graph).items():
            nodes, edges = _members(circuit.graph, group)
            found[name] = _out_of(circuit, nodes) | (circuit.mask & edges)
        return {name: gone for name, gone in found.items() if (gone & circuit.mask).any()}

    def _named(self, graph: Graph) -> dict[str, tuple[str, ...]]:
        """The nodes and edges of each class that has a name, a paper's and the config's own."""
        paper = classes_of(self.published, graph) if self.published else {}
        return {_label(name): nodes for name, nodes in paper.items()} | dict(self.groups)


def _label(name: str) -> str:
    """What a paper's class is called where names are short: previous-token."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower())


def _by_node(kind: str, value_of: Callable[[Node], object]) -> Callable[[Subject], Named]:
    """The circuit's nodes of each value, None apart, in the order of the graph."""

    def classes(subject: Subject) -> Named:
        values = [value_of(node) for node in subject.scores.graph.senders]
        for value in dict.fromkeys(one for one in values if one is not None):
            of_class = np.asarray([one == value for one in values])
            yield f"{kind}-{value}", _out_of(subject.the_circuit, of_class)

    return classes


def _by_port(subject: Subject) -> Named:
    """The circuit's edges of each port."""
    graph, mask = subject.scores.graph, subject.the_circuit.mask
    ports = [node.port or node.kind for node in graph.receivers]
    for port in dict.fromkeys(ports):
        of_port = np.asarray([one == port for one in ports])
        yield f"port-{port}", mask & of_port[graph.edge_receivers]


def _by_truth(subject: Subject) -> Named:
    """What of the circuit is known to be of it, and what is not: edges, or nodes where no more is known."""
    circuit = subject.the_circuit
    if subject.truth is not None:
        yield "truth-yes", circuit.mask & subject.truth
        yield "truth-no", circuit.mask & ~subject.truth
    elif subject.true_nodes is not None:
        yield "truth-yes", _out_of(circuit, subject.true_nodes)
        yield "truth-no", _out_of(circuit, ~subject.true_nodes)


_CLASSES: dict[Class, Callable[[Subject], Named]] = {
    "layer": _by_node("layer", lambda node: node.layer),
    "kind": _by_node("kind", lambda node: None if node.kind == "input" else node.kind),
    "port": _by_port,
    "truth": _by_truth,
}


def _out_of(circuit: Circuit, nodes: Bool[np.ndarray, " sender"]) -> Mask:
    """The edges out of those of the nodes that the circuit has, its own and others."""
    inside = np.zeros(circuit.graph.n_senders, dtype=bool)
    inside[nodes_of(circuit)] = True
    return out_of(circuit.graph, inside & nodes)


def _members(graph: Graph, group: Sequence[str]) -> tuple[Bool[np.ndarray, " sender"], Mask]:
    """The nodes and the edges of a group. CircuitsError where it names what the graph lacks."""
    nodes = np.zeros(graph.n_senders, dtype=bool)
    nodes[[graph.sender_index(name) for name in group if "->" not in name]] = True
    return nodes, graph.mask([name for name in group if "->" in name])
