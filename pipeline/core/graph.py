"""The computational graph of a transformer: nodes, edges, and their dense ids.

Knows the names and the order of things. Does not know models, tensors or scores.

Senders, in the order in which they write to the residual stream: `input`, then per layer its heads
`a{l}.h{h}` and its MLP `m{l}`. Receivers, in the order in which they read: per layer all `<q>`, all `<k>`,
all `<v>`, then `m{l}`; last `logits`. Every receiver reads a *prefix* of the senders, so

    edge_id = first edge of the receiver + index of the sender

is dense, and the scores of one receiver are one contiguous slice. Names are those of EAP-IG and of the MIB
leaderboard; with `kv="kv_head"` the key and value receivers are the model's own groups, `a3.kv1<k>`.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int

from pipeline.core.errors import CircuitsError

MOST_EDGES = 2**31 - 1  # ids are 32 bits wide

KvGrouping = Literal["query_head", "kv_head"]


@dataclass(frozen=True)
class Node:
    """A sender or a receiver.

    `kind` is input, head, mlp or logits; a receiver inside a head has `port` q, k or v. `head` counts query
    heads, or key-value heads when `grouped`.
    """

    kind: Literal["input", "head", "mlp", "logits"]
    layer: int | None = None
    head: int | None = None
    port: Literal["q", "k", "v"] | None = None
    grouped: bool = False

    @property
    def name(self) -> str:
        if self.kind == "head":
            head = f"a{self.layer}.{'kv' if self.grouped else 'h'}{self.head}"
            return f"{head}<{self.port}>" if self.port else head
        return f"m{self.layer}" if self.kind == "mlp" else self.kind


@dataclass(frozen=True)
class Edge:
    """One sender read by one receiver, with its dense id in the graph."""

    id: int
    sender: Node
    receiver: Node

    @property
    def name(self) -> str:
        return f"{self.sender.name}->{self.receiver.name}"


@dataclass(frozen=True)
class Graph:
    """All nodes and edges of a transformer with `n_layers` blocks of `n_heads` query heads.

    `parallel` blocks (GPT-J, Pythia) read the same residual in attention and MLP: no `a{l}.h*->m{l}` edge.
    """

    n_layers: int
    n_heads: int
    n_kv_heads: int
    parallel: bool = False
    kv: KvGrouping = "query_head"
    d_model: int | None = field(default=None, compare=False)  # for export only: no edge depends on it

    def __repr__(self) -> str:
        return f"Graph({self.describe()})"

    def __post_init__(self) -> None:
        if min(self.n_layers, self.n_heads, self.n_kv_heads) < 1 or self.n_heads % self.n_kv_heads:
            raise ValueError(f"{self.n_heads} query heads cannot share {self.n_kv_heads} key-value heads")
        if self.n_edges > MOST_EDGES:
            raise ValueError(f"a graph of {self.n_edges:,} edges is larger than any that can be numbered")

    # --- sizes -------------------------------------------------------------------------------------------

    @property
    def n_ports(self) -> int:
        """How many `<k>` (and how many `<v>`) receivers a layer has."""
        return self.n_heads if self.kv == "query_head" else self.n_kv_heads

    @property
    def n_senders(self) -> int:
        return 1 + self.n_layers * (self.n_heads + 1)

    @property
    def receivers_per_layer(self) -> int:
        return self.n_heads + 2 * self.n_ports + 1

    @property
    def n_receivers(self) -> int:
        return self.n_layers * self.receivers_per_layer + 1

    @property
    def n_edges(self) -> int:
        """`first_edge[-1]`, without counting: a graph may be asked for that no memory holds."""
        n, h = self.n_layers, self.n_heads
        read = n + (h + 1) * n * (n - 1) // 2  # senders before each block, over all blocks
        return self.receivers_per_layer * read + (0 if self.parallel else n * h) + self.n_senders

    # --- nodes -------------------------------------------------------------------------------------------

    @cached_property
    def senders(self) -> tuple[Node, ...]:
        nodes = [Node("input")]
        for layer in range(self.n_layers):
            nodes += [Node("head", layer, h) for h in range(self.n_heads)]
            nodes.append(Node("mlp", layer))
        return tuple(nodes)

    @cached_property
    def receivers(self) -> tuple[Node, ...]:
        grouped = self.kv == "kv_head"
        nodes: list[Node] = []
        for layer in range(self.n_layers):
            nodes += [Node("head", layer, h, "q") for h in range(self.n_heads)]
            nodes += [Node("head", layer, h, "k", grouped) for h in range(self.n_ports)]
            nodes += [Node("head", layer, h, "v", grouped) for h in range(self.n_ports)]
            nodes.append(Node("mlp", layer))
        return (*nodes, Node("logits"))

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The senders and `logits`: what people call the nodes of the circuit."""
        return (*self.senders, Node("logits"))

    def head_sender(self, layer: int, head: int = 0) -> int:
        return 1 + layer * (self.n_heads + 1) + head

    def mlp_sender(self, layer: int) -> int:
        return self.head_sender(layer, self.n_heads)

    def head_receiver(self, layer: int, port: Literal["q", "k", "v"], head: int = 0) -> int:
        before = {"q": 0, "k": self.n_heads, "v": self.n_heads + self.n_ports}[port]
        return layer * self.receivers_per_layer + before + head

    def mlp_receiver(self, layer: int) -> int:
        return (layer + 1) * self.receivers_per_layer - 1

    @property
    def logits_receiver(self) -> int:
        return self.n_receivers - 1

    def heads_fed_by(self, receiver: int) -> range:
        """Query heads that a `<q>`, `<k>` or `<v>` receiver feeds: one, or a whole group under `kv_head`."""
        node = self.receivers[receiver]
        if node.kind != "head" or node.head is None:
            raise ValueError(f"{node.name} does not feed heads")
        if not node.grouped:
            return range(node.head, node.head + 1)
        group = self.n_heads // self.n_kv_heads
        return range(node.head * group, (node.head + 1) * group)

    def senders_fed_by(self, receiver: int) -> range:
        """Sender indices whose output a receiver changes; empty for `logits`."""
        node = self.receivers[receiver]
        if node.kind == "logits" or node.layer is None:
            return range(0)
        if node.kind == "mlp":
            sender = self.mlp_sender(node.layer)
            return range(sender, sender + 1)
        heads = self.heads_fed_by(receiver)
        first = self.head_sender(node.layer)
        return range(first + heads.start, first + heads.stop)

    # --- edges -------------------------------------------------------------------------------------------

    @cached_property
    def senders_read(self) -> Int[np.ndarray, " receiver"]:
        """How many senders each receiver reads; they are always the first ones."""
        counts = []
        for node in self.receivers:
            if node.kind == "logits" or node.layer is None:
                counts.append(self.n_senders)
            elif node.kind == "mlp" and not self.parallel:
                counts.append(self.mlp_sender(node.layer))
            else:
                counts.append(self.head_sender(node.layer))
        return np.asarray(counts, dtype=np.int64)

    @cached_property
    def first_edge(self) -> Int[np.ndarray, " offset"]:
        """Offset of each receiver's slice of edge ids, and the number of edges at the end."""
        return np.concatenate([[0], np.cumsum(self.senders_read)]).astype(np.int64)

    @cached_property
    def edge_receivers(self) -> Int[np.ndarray, " edge"]:
        return np.repeat(np.arange(self.n_receivers, dtype=np.int32), self.senders_read)

    @cached_property
    def edge_senders(self) -> Int[np.ndarray, " edge"]:
        return (np.arange(self.n_edges) - self.first_edge[self.edge_receivers]).astype(np.int32)

    def edges_into(self, receiver: int) -> slice:
        return slice(int(self.first_edge[receiver]), int(self.first_edge[receiver + 1]))

    def edge(self, edge_id: int) -> Edge:
        sender = self.senders[self.edge_senders[edge_id]]
        return Edge(edge_id, sender, self.receivers[self.edge_receivers[edge_id]])

    def edge_name(self, edge_id: int) -> str:
        return self.edge(edge_id).name

    @cached_property
    def edge_names(self) -> tuple[str, ...]:
        senders, receivers = [n.name for n in self.senders], [n.name for n in self.receivers]
        pairs = zip(self.edge_senders, self.edge_receivers, strict=True)
        return tuple(f"{senders[s]}->{receivers[r]}" for s, r in pairs)

    @cached_property
    def _sender_index(self) -> dict[str, int]:
        return {node.name: i for i, node in enumerate(self.senders)}

    @cached_property
    def _receiver_index(self) -> dict[str, int]:
        return {node.name: i for i, node in enumerate(self.receivers)}

    def sender_index(self, name: str) -> int:
        try:
            return self._sender_index[name]
        except KeyError:
            raise CircuitsError(f"no sender {name!r} in this graph ({self.describe()})") from None

    def receiver_index(self, name: str) -> int:
        try:
            return self._receiver_index[name]
        except KeyError:
            raise CircuitsError(f"no receiver {name!r} in this graph ({self.describe()})") from None

    def edge_id(self, name: str) -> int:
        """Dense id of an edge such as `a5.h5->a9.h9<q>`; a name outside of the graph is an error."""
        sender_name, arrow, receiver_name = name.partition("->")
        if not arrow:
            raise CircuitsError(f"{name!r} is no edge; an edge is written sender->receiver, as in m0->logits")
        sender, receiver = self.sender_index(sender_name), self.receiver_index(receiver_name)
        if sender >= self.senders_read[receiver]:
            raise CircuitsError(
                f"{name!r} is no edge of this graph: {receiver_name} does not read {sender_name}"
            )
        return int(self.first_edge[receiver]) + sender

    def mask(self, names: "list[str] | tuple[str, ...]") -> Bool[np.ndarray, " edge"]:
        """A boolean per edge, true for the named ones."""
        kept = np.zeros(self.n_edges, dtype=bool)
        kept[[self.edge_id(name) for name in names]] = True
        return kept

    # --- identity ----------------------------------------------------------------------------------------

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of what fixes every edge id; equal graphs, and only they, share it."""
        identity = {k: v for k, v in asdict(self).items() if k != "d_model"}
        canonical = json.dumps({"edge_order": "receiver,sender", **identity}, sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()

    def describe(self) -> str:
        kv = "" if self.n_kv_heads == self.n_heads else f", {self.n_kv_heads} key-value heads, kv: {self.kv}"
        block = ", parallel blocks" if self.parallel else ""
        return f"{self.n_layers} layers, {self.n_heads} heads{kv}{block}, {self.n_edges:,} edges"
