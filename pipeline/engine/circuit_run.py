"""Forward passes in which every receiver has its own input: what circuits compute, several of a batch in one pass.

    x_r = what r reads in the empty circuit + sum over kept senders of weight (what they write now - what they write
          ablated)

The first term is one sum for all circuits (`emptied`); the second is zero to the last bit for a sender that writes what
it writes ablated, so that what should be nothing is nothing: a norm without a mean multiplies whatever rounding leaves
by up to 1/sqrt(eps) in every layer. Where a norm follows attention and blocks are `mixed`, the sum over the heads of a
layer is taken in front of it, kept and ablated heads and the bias together, and normed by every receiver: as MIB
evaluates (`evaluate_graph` of EAP-IG). Everything is recomputed from the current values, norms included.

Of each circuit only senders that are read are computed, and only where they are read (`pipeline.core.wiring`);
attention and MLPs run once for all circuits. Weights of edges may be real numbers, and gradients reach every edge of
the wiring. Knows executor and the empty circuit; does not know how a circuit was found or how good it is.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.core.wiring import Wiring
from pipeline.engine.emptied import Emptied, attention_added
from pipeline.engine.executor import finish, index_of
from pipeline.engine.senders import at_answer
from pipeline.models.adapters import Block, Port

PORTS: tuple[Port, ...] = ("q", "k", "v")
EMPTY = -1  # the number of the empty circuit among those that run
Inputs = Float[Tensor, "receiver prompt row d_model"]
Written = Float[Tensor, "sender prompt row d_model"]


def run_circuits(
    emptied: Emptied, wirings: Sequence[Wiring], weights: Float[Tensor, "circuit edge"] | None = None
) -> Float[Tensor, "circuit prompt *read d_model"]:
    """Final hidden states at the answer of every circuit.

    `weights` are what edges of the wirings are worth, any real numbers, 1 by default; those of other edges are 0
    whatever is given. Where weights require gradients and those are enabled, they reach every edge of a wiring:
    wire the edges of weights that are not 0, or, to learn about edges that are, all edges.
    """
    live = weights is not None and weights.requires_grad and torch.is_grad_enabled()
    with torch.set_grad_enabled(live):
        runs = [
            _Run(emptied, wiring, None if weights is None else weights[index], live=live)
            for index, wiring in enumerate(wirings)
        ]
        for block in emptied.parts.blocks:
            _layer(emptied, block, runs)
        finals = torch.cat([run.read_logits() for run in runs])
        return emptied.executor.read_out(finals).squeeze(-2)


class _Changes:
    """What senders write now minus what they write ablated, one after the other: in one buffer, or, where gradients
    are wanted, as they come."""

    def __init__(
        self, senders: Int[np.ndarray, " sender"], none: Float[Tensor, "0 prompt row d_model"], *, live: bool
    ) -> None:
        self.senders, self.none = senders, none
        self.live = live
        self.held: Tensor | None = None
        self.stop = 0

    def append(self, changes: Written) -> None:
        start, self.stop = self.stop, self.stop + len(changes)
        if self.held is None:
            n = len(changes) if self.live else len(self.senders)
            self.held = changes.new_empty(n, *changes.shape[1:])
        self.held = self.held.to(changes.device)
        if self.live:
            self.held = changes if start == 0 else torch.cat([self.held, changes])
        else:
            self.held[start : self.stop] = changes

    def between(self, first: int, stop: int, device: torch.device) -> Written:
        if self.held is None:  # nobody has written anything yet
            return self.none.to(device)
        self.held = self.held.to(device)
        return self.held[first:stop]


class _Run:
    """One circuit on its way through the network."""

    def __init__(self, emptied: Emptied, wiring: Wiring, weights: Tensor | None, *, live: bool) -> None:
        self.emptied, self.wiring, self.graph = emptied, wiring, emptied.graph
        self.reads = np.logical_or.reduce(wiring.table, -1)  # receivers that read anything
        table = _table(wiring, weights, emptied.values.input.dtype)
        self.changes, self.tables = {}, {}
        for everywhere in (True, False):
            senders = np.flatnonzero(wiring.everywhere if everywhere else wiring.read)
            rows = emptied.input[:, : None if everywhere else emptied.executor.n_reads]
            none = rows.new_empty(0, *rows.shape, dtype=table.dtype)
            self.changes[everywhere] = _Changes(senders, none, live=live)
            self.tables[everywhere] = table[:, torch.from_numpy(senders).to(table.device)]
        if wiring.read[0]:
            first = (emptied.input.to(emptied.values.input.dtype) - emptied.values.input)[None]
            everywhere = bool(wiring.everywhere[0])
            self.write(
                first if everywhere else at_answer(first, emptied.executor.answer_pos), everywhere=everywhere
            )

    def write(self, changes: Written, *, everywhere: bool) -> None:
        """Takes down what the next senders write."""
        if everywhere:
            self.changes[True].append(changes)
            changes = at_answer(changes, self.emptied.executor.answer_pos)
        self.changes[False].append(changes)

    def write_heads(self, outputs: Mapping[bool, tuple[Sequence[int], Written]]) -> None:
        """Takes down what the heads of a layer write: some everywhere, the others at the answer."""
        heads: list[int] = []
        answers = []
        if True in outputs:
            heads += outputs[True][0]
            self.changes[True].append(outputs[True][1])
            answers.append(at_answer(outputs[True][1], self.emptied.executor.answer_pos))
        if False in outputs:
            heads += outputs[False][0]
            answers.append(outputs[False][1])
        both = answers[0] if len(answers) == 1 else torch.cat(answers)[np.argsort(heads).tolist()]
        self.changes[False].append(both)

    def heads(self, block: Block) -> dict[bool, list[int]]:
        """The heads of a layer that are computed, everywhere and at the answer alone."""
        first, mlp = self.graph.head_sender(block.layer), self.graph.mlp_sender(block.layer)
        read, everywhere = self.wiring.read[first:mlp], self.wiring.everywhere[first:mlp]
        if block.coupled and read.any():
            read, everywhere = np.ones_like(read), np.full_like(read, everywhere.any())
        return {full: np.flatnonzero(read & (everywhere == full)).tolist() for full in (True, False)}

    def read(
        self, receivers: Sequence[int], senders: range, device: torch.device, *, everywhere: bool
    ) -> Inputs:
        """What receivers read of some senders more than in the empty circuit."""
        changes, answer_pos = self.changes[everywhere], self.emptied.executor.answer_pos
        first, stop = np.searchsorted(changes.senders, (senders.start, senders.stop)).tolist()
        table = self.tables[everywhere][list(receivers)].to(device)
        plain = table
        normed = []  # layers of which the sum is normed by the receivers, with their part of the table
        for block in self.emptied.parts.blocks if self.emptied.parts.blocks[0].mixed else ():
            heads = (self.graph.head_sender(block.layer), self.graph.mlp_sender(block.layer))
            start, end = np.searchsorted(changes.senders, heads).tolist()
            if first <= start < end <= stop:
                plain = plain.clone()
                plain[:, start:end] = 0
                normed.append((block, start, end))
        x = _product(plain[:, first:stop], changes.between(first, stop, device))
        for block, start, end in normed:
            raw = self.emptied.raw[block.layer]
            assert raw is not None, "of a mixed block"
            raw = (raw if everywhere else at_answer(raw, answer_pos)).to(device)
            change = _product(table[:, start:end], changes.between(start, end, device))
            x = x + (attention_added(block, raw + change) - attention_added(block, raw))
        return x

    def read_logits(self) -> Float[Tensor, "one prompt row d_model"]:
        final, senders = self.emptied.final, range(self.graph.n_senders)
        x = self.read([self.graph.logits_receiver], senders, final.device, everywhere=False)
        return (x + at_answer(final, self.emptied.executor.answer_pos)).to(self.emptied.input.dtype)


def _table(wiring: Wiring, weights: Tensor | None, dtype: torch.dtype) -> Float[Tensor, "receiver sender"]:
    """What every edge of a circuit is worth; 0 where there is none."""
    if weights is None:
        return torch.from_numpy(wiring.table).to(dtype)
    graph = wiring.graph
    edges = np.flatnonzero(wiring.mask)
    at = graph.edge_receivers[edges].astype(np.int64) * graph.n_senders + graph.edge_senders[edges]
    index, chosen = (torch.from_numpy(x).to(weights.device) for x in (at, edges))
    flat = torch.zeros(graph.n_receivers * graph.n_senders, dtype=dtype, device=weights.device)
    return flat.index_put((index,), weights[chosen].to(dtype)).view(graph.n_receivers, graph.n_senders)


def _product(table: Float[Tensor, "receiver sender"], changes: Written) -> Inputs:
    return (table @ changes.flatten(1)).view(-1, *changes.shape[1:])


def _layer(emptied: Emptied, block: Block, runs: Sequence[_Run]) -> None:
    """Runs one layer of all circuits."""
    layer, graph = block.layer, emptied.graph
    before = range(graph.head_sender(layer))
    mlp, sender = graph.mlp_receiver(layer), graph.mlp_sender(layer)
    heads = [run.heads(block) for run in runs]
    ports = _Ports(emptied, block)
    at_mlp: dict[bool, list[tuple[_Run, Tensor]]] = {True: [], False: []}
    for number, run in enumerate(runs):
        for full in (True, False):
            receivers = [r for r in ports.receivers(heads[number], full=full) if run.reads[r]]
            n_heads = len(receivers)
            if run.wiring.read[sender] and run.wiring.everywhere[sender] == full:
                receivers.append(mlp)
            if receivers:
                x = run.read(receivers, before, block.device, everywhere=full)
                if n_heads:
                    ports.add(number, receivers[:n_heads], x[:n_heads], full=full)
                if n_heads < len(receivers):
                    at_mlp[full].append((run, x[-1:]))
    written: list[dict[bool, tuple[list[int], Tensor]]] = [{} for _ in runs]
    for full in (True, False):
        pairs = [(number, head) for number in range(len(runs)) for head in heads[number][full]]
        if not pairs:
            continue
        z = ports.attend(pairs, full=full)
        start = 0
        for number, run in enumerate(runs):
            computed = heads[number][full]
            first = graph.head_sender(layer)
            read = [i for i, head in enumerate(computed) if run.wiring.read[first + head]]
            if read:
                there = z[start : start + len(computed)]
                there = there if len(read) == len(computed) else there[read]
                chosen = [computed[i] for i in read]
                written[number][full] = (chosen, _outputs(block, chosen, there))
            start += len(computed)
    for run, outputs in zip(runs, written, strict=True):
        if outputs:
            run.write_heads(outputs)
    for full, some in at_mlp.items():
        if some:
            _mlp(emptied, block, some, full=full)


def _outputs(block: Block, heads: Sequence[int], z: Float[Tensor, "sender prompt row d_head"]) -> Written:
    """What a difference of z of these heads changes in what they write."""
    weight = block.projections.out[index_of(heads)].to(z.dtype)
    out = torch.bmm(z.flatten(1, 2), weight).view(*z.shape[:-1], -1)
    return out if (gain := block.post_gain) is None else out * gain


def _mlp(emptied: Emptied, block: Block, some: Sequence[tuple[_Run, Tensor]], *, full: bool) -> None:
    """Runs the MLP of a layer for the circuits that read it, given what it reads of the layers before."""
    graph, layer, answer_pos = emptied.graph, block.layer, emptied.executor.answer_pos
    heads = range(graph.head_sender(layer), graph.mlp_sender(layer))
    ground, ablated = emptied.mlps[layer], emptied.values.mlp[layer].to(block.device)
    if not full:
        ground, ablated = at_answer(ground, answer_pos), at_answer(ablated, answer_pos)
    inputs = []
    for run, x in some:
        if not block.parallel:
            x = x + run.read([graph.mlp_receiver(layer)], heads, block.device, everywhere=full)  # noqa: PLW2901
        inputs.append(x + ground)
    read = torch.cat(inputs).to(emptied.input.dtype)
    changes = emptied.executor.mlp(layer, read).to(ablated.dtype) - ablated
    for (run, _), change in zip(some, changes, strict=True):
        run.write(change[None], everywhere=full)


class _Ports:
    """Queries, keys and values of a layer: of each circuit where its receivers read something of it, else of the empty
    circuit."""

    def __init__(self, emptied: Emptied, block: Block) -> None:
        self.emptied, self.block, graph = emptied, block, emptied.graph
        self.first = {port: graph.head_receiver(block.layer, port) for port in PORTS}
        shared = graph.n_heads // graph.n_ports
        self.group = {"q": 1, "k": shared, "v": shared}  # heads that share a receiver
        self.raw: dict[tuple[Port, bool], list[Tensor]] = defaultdict(list)
        self.where: dict[tuple[Port, bool], dict[tuple[int, int], int]] = defaultdict(dict)

    def receivers(self, heads: Mapping[bool, Sequence[int]], *, full: bool) -> list[int]:
        """Receivers of the heads that are computed: all keys and values are read everywhere, queries where their head
        is."""
        found = [self._receiver("q", head) for head in heads[full]]
        if full:
            both = sorted({*heads[True], *heads[False]})
            for port in ("k", "v"):
                found += sorted({self._receiver(port, head) for head in both})
        return found

    def _receiver(self, port: Port, head: int) -> int:
        return self.first[port] + head // self.group[port]

    def add(self, number: int, receivers: Sequence[int], changes: Inputs, *, full: bool) -> None:
        """Projects what receivers of a circuit read, given how it differs from the empty circuit."""
        ground = self.emptied.heads[self.block.layer]
        if not full:
            ground = at_answer(ground, self.emptied.executor.answer_pos)
        self._project(number, receivers, changes + ground, full=full)

    def _project(self, number: int, receivers: Sequence[int], x: Inputs, *, full: bool) -> None:
        normed = self.block.norm1(x.to(self.emptied.input.dtype))[:, None]
        for port in PORTS:
            first, last = self.first[port], self._receiver(port, self.block.n_heads - 1)
            at = [i for i, receiver in enumerate(receivers) if first <= receiver <= last]
            if not at:
                continue
            some = normed if len(normed) == 1 else normed[at[0] : at[-1] + 1]
            heads = [(receivers[i] - first) * self.group[port] for i in at]
            key = (port, full)
            where = self.where[key]
            start = len(where)
            where.update({(number, receivers[i]): start + j for j, i in enumerate(at)})
            self.raw[key].append(self.emptied.executor.project_raw(self.block.layer, port, heads, some))

    def attend(
        self, pairs: Sequence[tuple[int, int]], *, full: bool
    ) -> Float[Tensor, "pair prompt row d_head"]:
        """How z of heads of circuits differs from what they write ablated."""
        executor, block = self.emptied.executor, self.block
        rows, every = (executor.every if full else executor.answer)[block.layer], executor.every[block.layer]
        q, k, v = (self._of(port, pairs, full=full or port != "q") for port in PORTS)
        heads: Sequence[int] = [head for _, head in pairs]
        if block.coupled:  # all heads of each circuit
            heads = range(block.n_heads)
            q, k, v = (x.squeeze(1).unflatten(0, (-1, len(heads))).transpose(0, 1) for x in (q, k, v))
        q, k = finish(block, "q", q, rows, heads), finish(block, "k", k, every, heads)
        z = rows.attend(q, k, v, heads)
        scale = executor.scale_of(block.layer, z)
        if scale is not None:
            z = z * (scale if isinstance(scale, float) else scale[..., None])
        ablated = self.emptied.z(block.layer, heads)
        if not full:
            ablated = at_answer(ablated, executor.answer_pos)
        change = z.to(ablated.dtype) - ablated
        return change.transpose(0, 1).flatten(0, 1)

    def _of(
        self, port: Port, pairs: Sequence[tuple[int, int]], *, full: bool
    ) -> Float[Tensor, "pair one prompt row d_head"]:
        """What the projection of a port made for each of these heads."""
        key = (port, full)
        where = self.where[key]
        wanted = [(number, self._receiver(port, head)) for number, head in pairs]
        missing = sorted({receiver for number, receiver in wanted if (number, receiver) not in where})
        if missing:
            ground = self.emptied.heads[self.block.layer]
            if not full:
                ground = at_answer(ground, self.emptied.executor.answer_pos)
            self._project(EMPTY, missing, ground[None], full=full)
        index = [where.get(one, -1) for one in wanted]
        index = [where[EMPTY, one[1]] if at < 0 else at for one, at in zip(wanted, index, strict=True)]
        parts = self.raw[key]
        raw = parts[0] if len(parts) == 1 else torch.cat(parts)
        self.raw[key] = [raw]
        return raw if index == list(range(len(raw))) else raw[index]
