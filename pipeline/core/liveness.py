"""Which nodes are still read while edges are removed from the output back to the input.

Knows the kept edges of the receivers decided so far. Does not know thresholds, tensors or prompts.

A node is *alive* when some decided receiver kept its edge. An alive node is needed at the answer position
alone, unless a key or a value reads it, directly or through others. Where the heads of a layer depend on each
other (a norm over what they write, or over their queries) they live together.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pipeline.core.graph import Graph


@dataclass(frozen=True)
class Liveness:
    """The readers of every alive sender, and the senders that are needed at all positions.

    `coupled` says for each layer whether its heads depend on each other.
    """

    graph: Graph
    coupled: tuple[bool, ...]
    readers: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    everywhere: frozenset[int] = frozenset()

    def changed_by(self, receiver: int) -> range:
        """Senders whose output a receiver changes: what it feeds, or all heads of a layer that couples them."""
        node, graph = self.graph.receivers[receiver], self.graph
        if node.kind == "head" and node.layer is not None and self.coupled[node.layer]:
            return range(graph.head_sender(node.layer), graph.mlp_sender(node.layer))
        return graph.senders_fed_by(receiver)

    def alive(self, receiver: int) -> bool:
        """True when what this receiver changes is still read by somebody (`logits` always is)."""
        if receiver == self.graph.logits_receiver:
            return True
        return any(sender in self.readers for sender in self.changed_by(receiver))

    def needs_all_rows(self, receiver: int) -> bool:
        """False when only its input at the answer position matters."""
        if self.graph.receivers[receiver].port in ("k", "v"):
            return True
        return any(sender in self.everywhere for sender in self.changed_by(receiver))

    def keeping(self, receiver: int, senders: Iterable[int]) -> "Liveness":
        """The same after `receiver` was decided to read `senders` and no others."""
        senders = list(senders)
        readers = dict(self.readers)
        for sender in senders:
            readers[sender] = (*readers.get(sender, ()), receiver)
        everywhere = self.everywhere
        if self.needs_all_rows(receiver):
            everywhere = everywhere.union(*(self._together(sender) for sender in senders))
        return replace(self, readers=readers, everywhere=everywhere)

    def _together(self, sender: int) -> Sequence[int]:
        """The sender, or all heads of its layer where they are coupled."""
        node, graph = self.graph.senders[sender], self.graph
        if node.kind == "head" and node.layer is not None and self.coupled[node.layer]:
            return range(graph.head_sender(node.layer), graph.mlp_sender(node.layer))
        return (sender,)
