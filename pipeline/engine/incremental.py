"""Cached runs with edges taken out receiver by receiver: what a removal changes, and nothing else, is recomputed.

Knows states, and variants of one receiver's input on their way. Does not know thresholds, nor in which order receivers
come (`pipeline.methods.search`), only that it leads from the output to the input: everything upstream of the receiver
at hand still is the clean run.

Only alive nodes are recomputed, and only where they are needed (`pipeline.core.liveness`).
"""

from collections import defaultdict
from collections.abc import Collection, Sequence
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.core.liveness import Liveness
from pipeline.engine.current import Current
from pipeline.engine.executor import Executor, Rows, finish
from pipeline.engine.mixed_heads import MixedHeads
from pipeline.engine.propagation import propagate, run
from pipeline.engine.recorded import Recorded
from pipeline.engine.removal import Removal
from pipeline.engine.trial import Lane, Trial, lanes_of, stacked
from pipeline.models.adapters import Block, Port

# Receivers whose input has changed already, and what they change has not; the layer whose heads changed it.
Pending = tuple[int | None, frozenset[int]]
NOTHING: Pending = (None, frozenset())


class Incremental:
    """One batch in one state. Nothing of it changes but by `settle`, which gives another."""

    def __init__(self, recorded: Recorded, liveness: Liveness) -> None:
        self.recorded = recorded
        self.liveness = liveness
        self.graph = recorded.graph
        self._mixed = MixedHeads(recorded)
        self._current = Current(recorded, liveness)
        self.removal = Removal(recorded, self._mixed, liveness)
        # of the receiver asked about last
        self._lanes_of: tuple[tuple[int, int] | None, list[Lane]] = (None, [])
        self._hidden: Float[Tensor, "prompt *read d_model"] | None = None  # None: that of the clean run
        self._pending = NOTHING

    @property
    def executor(self) -> Executor:
        return self.recorded.executor

    def _blocks(self, layer: int) -> Block:
        return self.recorded.parts.blocks[layer]

    def final_hidden(self) -> Float[Tensor, "prompt *read d_model"]:
        """Final hidden states at the answer."""
        if self.caught_up is not self:
            return self.caught_up.final_hidden()
        return self.executor.answer_hidden(self.recorded.clean) if self._hidden is None else self._hidden

    # --- states -------------------------------------------------------------------------------------------

    def settle(
        self, receiver: int, x: Float[Tensor, "prompt row d_model"], liveness: Liveness
    ) -> "Incremental":
        """The state in which the receiver's input is `x`; this one stays as it is.

        Of heads, which do not read each other, it ends where their outputs are added: what that changes further on is
        computed once for all of a layer, or by trials of its other heads as they go.
        """
        node, before = self.graph.receivers[receiver], self.at(receiver)
        if before is not self:
            return before.settle(receiver, x, liveness)
        if node.layer is None or node.kind != "head":
            [trial] = propagate([(self, receiver, x[None])], keep=True)
            return self._after(trial, liveness)
        changed = self.liveness.changed_by(receiver)
        readers = {reader for sender in changed for reader in self.liveness.readers.get(sender, ())}
        trial = Trial(receiver, 1, lanes_of(self._current.inputs, sorted(readers), 1))
        trial.inputs[receiver] = x[None]
        with torch.no_grad():
            self.run_heads(node.layer, trial)
        return self._after(trial, liveness, (node.layer, self._pending[1].union(readers)))

    def at(self, receiver: int) -> "Incremental":
        """This state, ready for trials of a receiver."""
        node = self.graph.receivers[receiver]
        return self if node.kind == "head" and node.layer == self._pending[0] else self.caught_up

    @cached_property
    def caught_up(self) -> "Incremental":
        """The same state with nothing pending."""
        layer, pending = self._pending
        if layer is None:
            return self
        trial = Trial(-1, 1, self._lanes_from(pending, 1))
        self._put_pending(trial)
        run([self], [trial], layer, keep=True)
        return self._after(trial, self.liveness)

    def _after(self, trial: Trial, liveness: Liveness, pending: Pending = NOTHING) -> "Incremental":
        """The state that the first variant of a trial ends in."""
        after = Incremental(self.recorded, liveness)
        after._pending = pending
        after._hidden = self._hidden if trial.hidden is None else trial.hidden[0]
        after._current = self._current.after(trial, liveness)
        return after

    # --- propagation --------------------------------------------------------------------------------------

    def begin(self, receiver: int, inputs: Float[Tensor, "variant prompt row d_model"]) -> Trial:
        """Variants that differ from this state in one receiver's input."""
        assert self.at(receiver) is self, "nothing is pending elsewhere"
        trial = Trial(receiver, len(inputs), self._lanes(receiver, len(inputs)))
        self._put_pending(trial)
        trial.inputs[receiver] = inputs
        return trial

    def _put_pending(self, trial: Trial) -> None:
        trial.inputs |= {receiver: self._current.inputs[receiver][None] for receiver in self._pending[1]}

    def _lanes(self, receiver: int, n_variants: int) -> list[Lane]:
        """All receivers that a change of this one's input may reach."""
        known, lanes = self._lanes_of
        width = 1 << (n_variants - 1).bit_length()  # so that they are made for few numbers of variants
        if known != (receiver, width):
            lanes = self._lanes_from({receiver, *self._pending[1]}, width)
            self._lanes_of = (receiver, width), lanes
        return lanes

    def _lanes_from(self, receivers: Collection[int], n_variants: int) -> list[Lane]:
        """All receivers that a change of the inputs of some may reach."""
        reached: set[int] = set()
        changed = [sender for receiver in receivers for sender in self.liveness.changed_by(receiver)]
        while changed:
            new = {*self.liveness.readers.get(changed.pop(), ())} - reached
            reached |= new
            changed += [sender for reader in new for sender in self.liveness.changed_by(reader)]
        return lanes_of(self._current.inputs, sorted(reached), n_variants)

    def run_heads(self, layer: int, trial: Trial) -> None:
        """Projects the changed receivers of a layer, and recomputes the heads that they change."""
        graph, block = self.graph, self._blocks(layer)
        first, last = graph.head_receiver(layer, "q"), graph.mlp_receiver(layer)
        changed: dict[tuple[Port, torch.Size], list[int]] = defaultdict(list)
        for receiver in sorted(trial.inputs):
            if first <= receiver < last:
                self.arrive(receiver, trial)
                port: Port = graph.receivers[receiver].port  # type: ignore[assignment]  # below the MLP's all have one
                changed[port, trial.inputs[receiver].shape].append(receiver)
        if not changed:
            return
        # head -> its changed ports, and in how many variants
        touched: dict[int, tuple[tuple[str, int], ...]] = defaultdict(tuple)
        for (port, shape), receivers in changed.items():
            fed = [self._fed(receiver, block) for receiver in receivers]
            x = stacked([trial.inputs[receiver] for receiver in receivers])
            normed = block.norm1(x)
            heads = [group[0] for group in fed]  # heads that share a key or a value share its projection
            if block.joint_qk:
                projected = self.executor.project_raw(layer, port, heads, normed)
            else:
                projected = self.executor.project(layer, port, heads, normed, self._rows(layer, normed))
            projected = self._current.unpacked(layer, port, heads, projected)
            for place, (group, value) in enumerate(zip(fed, projected, strict=True)):
                for head in group:
                    trial.ports[layer, port, head] = value
                    trial.places[layer, port, head] = projected, place
                    touched[head] += ((port, shape[0]),)
        if block.coupled:
            self._run_coupled(layer, trial)
            return
        scale = None if block.multiplier == 1.0 or block.mixed else block.multiplier
        found: dict[int, Tensor] = {}
        alike: dict[tuple[tuple[tuple[str, int], ...], bool], list[int]] = defaultdict(list)
        for head in sorted(touched):
            everywhere = graph.head_sender(layer, head) in self.liveness.everywhere
            alike[touched[head], everywhere].append(head)
        for (ports, everywhere), heads in alike.items():
            n_variants = trial.n_variants if block.mixed else max(n for _, n in ports)
            rows = (self.executor.every if everywhere else self.executor.answer)[layer]
            q, k, v = (self._current.read(layer, port, heads, trial, rows) for port in ("q", "k", "v"))
            z = rows.attend_joined(q, k, v).expand(-1, n_variants, -1, -1, -1)
            z = self.recorded.packing.pack(z) if everywhere else z
            self._spread_heads(layer, heads, z if scale is None else z * scale, trial, found)
        if found:
            self._spread_mixed(layer, found, trial)

    def _rows(self, layer: int, x: Tensor) -> Rows:
        rows = self.executor.answer if x.shape[-2] == self.executor.n_reads else self.recorded.rows
        return rows[layer]

    def _fed(self, receiver: int, block: Block) -> Sequence[int]:
        """The heads that a receiver feeds and that must be recomputed."""
        fed = self.graph.heads_fed_by(receiver)
        if block.coupled:
            return fed
        layer = self.graph.receivers[receiver].layer
        assert layer is not None, "heads have a layer"
        return [head for head in fed if self.graph.head_sender(layer, head) in self.liveness.readers]

    def _run_coupled(self, layer: int, trial: Trial) -> None:
        """Recomputes all heads of a layer, of which each changes what the others write."""
        graph, block, heads = self.graph, self._blocks(layer), range(self.graph.n_heads)
        everywhere = graph.head_sender(layer) in self.liveness.everywhere
        rows = (self.executor.every if everywhere else self.executor.answer)[layer]
        ports = {}
        for port in ("q", "k", "v"):
            each = [self._current.port(layer, port, head, trial) for head in heads]
            ports[port] = torch.stack([x.expand(trial.n_variants, -1, -1, -1) for x in each])
        if block.joint_qk:
            ports["q"] = finish(block, "q", ports["q"], rows, heads)
            ports["k"] = finish(block, "k", ports["k"], self.executor.every[layer], heads)
        z = rows.attend(ports["q"], ports["k"], ports["v"], heads)
        z = self.recorded.packing.pack(z) if everywhere else z
        alive = [head for head in heads if graph.head_sender(layer, head) in self.liveness.readers]
        scale, found = self.executor.scale_of(layer, z), dict[int, Tensor]()
        if scale is not None:
            z = z * (scale if isinstance(scale, float) else scale[..., None])
        self._spread_heads(layer, alive, z[alive], trial, found)
        if found:
            self._spread_mixed(layer, found, trial)

    def _spread_heads(
        self,
        layer: int,
        heads: Sequence[int],
        z: Float[Tensor, "head variant prompt row d_head"],
        trial: Trial,
        mixed: dict[int, Tensor],
    ) -> None:
        """Adds the change of what heads write to every receiver that kept their edges; or their z to `mixed`, where
        readers norm the sum of them."""
        senders = [self.graph.head_sender(layer, head) for head in heads]
        for sender, out in zip(senders, z, strict=True):
            self._note(sender, out, trial)
        if self._blocks(layer).mixed:
            mixed.update(zip(senders, z, strict=True))
            return
        # of the change of z, which is as narrow as a head
        changes = self.executor.head_outputs(
            layer, heads, z - self._current.outputs_of(tuple(senders))[:, None]
        )
        for sender, change in zip(senders, changes, strict=True):
            self._add(self.liveness.readers.get(sender, ()), change, trial)

    def spread(self, sender: int, out: Float[Tensor, "variant prompt row d_model"], trial: Trial) -> None:
        """Adds the change of an MLP's output to every receiver that kept its edge."""
        self._note(sender, out, trial)
        self._add(self.liveness.readers.get(sender, ()), out - self._current.output(sender), trial)

    def _spread_mixed(
        self, layer: int, outputs: dict[int, Float[Tensor, "variant prompt row d_head"]], trial: Trial
    ) -> None:
        """The same for all changed heads of a layer, whose sums are normed by every receiver that kept some."""
        readers = defaultdict[int, list[int]](list)
        changes = {sender: z - self._current.output(sender) for sender, z in outputs.items()}
        for sender in outputs:
            for receiver in self.liveness.readers.get(sender, ()):
                readers[receiver].append(sender)
        heads, rows_of = self._mixed.heads(layer), self.recorded.rows_of
        for receiver, changed in readers.items():
            x = trial.inputs.get(receiver)
            if x is None:
                x = self._current.inputs[receiver]
            kept = [head for head in heads if receiver in self.liveness.readers.get(head, ())]
            if self.recorded.silent:
                before, after = (
                    self._mixed.sum_of(layer, kept, now, x)
                    for now in (self._current.outputs, {**self._current.outputs, **outputs})
                )
                self._add([receiver], self.executor.attention_between(layer, before, after), trial)
                continue
            before = self._mixed.sum_without(layer, [head for head in heads if head not in kept], x)
            moved = {  # those that are not there write what they write in the clean run
                head: rows_of(self._current.outputs[head], x) - rows_of(self.recorded.clean_output(head), x)
                for head in kept
                if head in self._current.outputs
            }
            if moved:
                before = before + self._mixed.written(layer, moved)
            change = self._mixed.written(layer, {head: rows_of(changes[head], x) for head in changed})
            self._add([receiver], self.executor.attention_change(layer, before, change), trial)

    def _add(
        self, receivers: Sequence[int], delta: Float[Tensor, "variant prompt row d_model"], trial: Trial
    ) -> None:
        """Adds a change to the inputs of some receivers, at the rows that each of them has."""
        answer, n_reads = None, self.executor.n_reads
        for index, lane in enumerate(trial.lanes):
            readers = [receiver for receiver in receivers if receiver in lane.place]
            if not readers:
                continue
            change = delta
            if lane.base.shape[-2] == n_reads and delta.shape[-2] != n_reads:
                answer = self.recorded.packing.at_answer(delta) if answer is None else answer
                change = answer
            trial.add(index, readers, change)

    def _note(self, sender: int, out: Float[Tensor, "variant prompt row d_model"], trial: Trial) -> None:
        trial.outputs[sender] = out
        if self.recorded.silent:
            trial.mute[sender] = (out == 0).all(dim=-1, keepdim=True)

    @cached_property
    def _kept(self) -> dict[int, list[int]]:
        """The senders that each decided receiver reads, in order."""
        kept = defaultdict[int, list[int]](list)
        for sender in sorted(self.liveness.readers):
            for receiver in self.liveness.readers[sender]:
                kept[receiver].append(sender)
        return kept

    def arrive(self, receiver: int, trial: Trial) -> None:
        """Everything that changes this receiver's input has: where all that it reads writes nothing no rounding of the
        changes is left, which a norm would multiply."""
        senders = self._kept.get(receiver, ())
        if receiver == trial.receiver or not self.recorded.silent or not senders:
            return
        x, nothing = trial.inputs[receiver], None
        for sender in senders:
            mute = trial.mute.get(sender, self._current.mute.get(sender))
            if mute is None:  # it writes what it writes in the clean run
                return
            mute = self.recorded.rows_of(mute, x).to(x.device)
            nothing = mute if nothing is None else nothing & mute
        assert nothing is not None, "it reads something"
        trial.inputs[receiver] = torch.where(
            nothing, self.recorded.rows_of(self.recorded.constants(receiver), x), x
        )
