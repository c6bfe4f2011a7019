"""Exact effects of patching one edge, or one node, with everything downstream recomputed.

An edge: the input of its receiver holds the sender's other value, everything upstream is frozen at the base
run, so only the receiver's own node changes, and then the rest of the network with it. Senders are batched as
variants; the rest of the network reads one residual per variant, as in a stock forward pass.

Knows captures, executor and graph. Does not know directions, signs or statistics.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.core.graph import Graph
from pipeline.engine.ablated import Ablated
from pipeline.engine.executor import Executor, Rows, finish
from pipeline.engine.readout import Objective
from pipeline.engine.senders import SenderValues, at_answer
from pipeline.models.adapters import Parts, Port

# Elements of a residual stream over variants, prompts and rows that are in flight at once. On a CPU few enough that
# an MLP's hidden layer stays in cache; elsewhere enough to fill the device.
_IN_FLIGHT = 2**19
_IN_FLIGHT_ON_DEVICE = 2**25


@dataclass(frozen=True)
class Patcher:
    """One batch with all senders' differences, patched edge by edge or node by node."""

    parts: Parts
    graph: Graph
    ablated: Ablated
    objective: Objective
    deltas: Float[Tensor, "sender prompt pos d_model"]

    @staticmethod
    def of(parts: Parts, graph: Graph, ablated: Ablated, objective: Objective) -> "Patcher":
        deltas = ablated.deltas.written_alone(parts, SenderValues.of(ablated.base))
        return Patcher(parts, graph, ablated, objective, deltas)

    @property
    def executor(self) -> Executor:
        return self.ablated.executor

    @property
    def _answer_pos(self) -> Int[Tensor, "prompt *read"]:
        return self.ablated.answer_pos

    def base_values(self) -> Float[Tensor, " prompt"]:
        """The metric of the unpatched base run."""
        return self.objective(self.executor.answer_hidden(self.ablated.base))

    def at_once(self) -> int:
        """Variants in flight at once."""
        base = self.ablated.base.input
        return max(1, (_IN_FLIGHT if base.device.type == "cpu" else _IN_FLIGHT_ON_DEVICE) // base.numel())

    # --- edges -------------------------------------------------------------------------------------------

    @torch.no_grad()
    def edges(
        self, chosen: Collection[int] | None = None
    ) -> Iterator[tuple[int, Float[Tensor, "sender prompt"]]]:
        """For every receiver, or the chosen ones, the metric with each of its senders patched alone."""
        wanted = range(self.graph.n_receivers) if chosen is None else frozenset(chosen)
        for layer in range(self.graph.n_layers):
            mlp = self.graph.mlp_receiver(layer)
            heads = [one for one in range(self.graph.head_receiver(layer, "q"), mlp) if one in wanted]
            if heads:
                yield from zip(heads, self.head_edges(layer, heads), strict=True)
            if mlp in wanted:
                yield mlp, self.mlp_edges(layer)
        if self.graph.logits_receiver in wanted:
            yield self.graph.logits_receiver, self.logits_edges()

    @torch.no_grad()
    def logits_edges(self) -> Float[Tensor, "sender prompt"]:
        """The metric with each sender patched in what the final norm reads."""
        final = at_answer(self.ablated.base.final, self._answer_pos)
        deltas = at_answer(self.deltas, self._answer_pos).to(final.device)
        return self.objective(self.executor.read_out(final + deltas).squeeze(-2))

    @torch.no_grad()
    def mlp_edges(self, layer: int) -> Float[Tensor, "sender prompt"]:
        """The metric with each sender patched in what an MLP reads: the residual itself goes on unpatched."""
        record, last = self.ablated.base.layers[layer], layer == self.graph.n_layers - 1
        n = int(self.graph.senders_read[self.graph.mlp_receiver(layer)])
        mid, deltas = record.mid, self.deltas[:n]
        around = self.ablated.base.after(layer).to(record.mlp.device) - record.mlp
        if last:
            mid, deltas, around = (at_answer(x, self._answer_pos) for x in (mid, deltas, around))
        hidden = []
        for part in deltas.split(self.at_once()):
            out = around + self.executor.mlp(layer, mid + part.to(mid.device))
            hidden.append(self.executor.rest(layer + 1, out))
        return self.objective(torch.cat(hidden))

    @torch.no_grad()
    def head_edges(self, layer: int, receivers: Sequence[int]) -> Float[Tensor, "receiver sender prompt"]:
        """The metric with each sender patched in what some `<q>`, `<k>` or `<v>` of a layer read.

        Senders are normed once; every port of every head projects from that. All receivers are measured together:
        a large product with the unembedding is faster than many small ones.
        """
        record = self.ablated.base.layers[layer]
        n = int(self.graph.senders_read[self.graph.head_receiver(layer, "q")])
        values = []
        for part in self.deltas[:n].split(self.at_once()):
            normed = self.parts.blocks[layer].norm1(record.resid + part.to(record.resid.device))
            hidden = []
            for receiver in receivers:
                change = self._head_change(layer, receiver, normed)
                hidden.append(self.executor.rest_after_attention(layer, self.ablated.base, change))
            values.append(self.objective(torch.stack(hidden)))
        return torch.cat(values, 1)

    def _head_change(
        self, layer: int, receiver: int, normed: Float[Tensor, "sender prompt pos d_model"]
    ) -> Float[Tensor, "sender prompt row d_model"]:
        """The change of what the attention of a layer writes when one receiver of its heads reads patched inputs."""
        graph, record, executor = self.graph, self.ablated.base.layers[layer], self.executor
        block = self.parts.blocks[layer]
        port = cast("Port", graph.receivers[receiver].port)
        fed = graph.heads_fed_by(receiver)
        joint = block.joint_qk and port != "v"  # then a change of one head's input reaches all heads
        heads = range(graph.n_heads) if joint else fed
        last = layer == graph.n_layers - 1
        rows = executor.answer[layer] if last else executor.every[layer]

        def of_heads(x: Tensor) -> Float[Tensor, "head one prompt pos d_head"]:
            return x[:, heads.start : heads.stop].transpose(0, 1)[:, None]

        q, k, v = of_heads(record.q), of_heads(record.k), of_heads(record.v)
        z = of_heads(record.z.transpose(1, 2))
        if last:
            q, z = at_answer(q, self._answer_pos), at_answer(z, self._answer_pos)
            if port == "q":
                normed = at_answer(normed, self._answer_pos)
        every = rows if port == "q" else executor.every[layer]
        if joint:
            changed = self._joint(layer, port, fed, normed, every)
        else:
            changed = executor.project(layer, port, fed[:1], normed[None], every)
        q, k, v = (changed if name == port else old for name, old in (("q", q), ("k", k), ("v", v)))
        change = executor.raw_change(layer, heads, rows.attend(q, k, v, heads) - z)
        if block.post_attn is None:
            return change if block.multiplier == 1.0 else change * block.multiplier
        raw = at_answer(record.attn_raw, self._answer_pos) if last else record.attn_raw
        return executor.attention_change(layer, raw, change)

    def _joint(
        self,
        layer: int,
        port: Port,
        fed: range,
        normed: Float[Tensor, "sender prompt row d_model"],
        rows: Rows,
    ) -> Float[Tensor, "head sender prompt row d_head"]:
        """q or k of all heads when the input of some changes, where all heads are normed together."""
        record = self.ablated.base.layers[layer]
        clean = record.q_raw if port == "q" else record.k_raw
        assert clean is not None, "recorded wherever all heads are normed together"
        raw = clean.transpose(0, 1)[:, None]
        if raw.shape[-2] != normed.shape[-2]:
            raw = at_answer(raw, self._answer_pos)
        raw = raw.expand(-1, len(normed), -1, -1, -1).clone()
        raw[fed.start : fed.stop] = self.executor.project_raw(layer, port, fed[:1], normed[None])
        return finish(self.parts.blocks[layer], port, raw, rows, range(self.graph.n_heads))

    # --- nodes -------------------------------------------------------------------------------------------

    @torch.no_grad()
    def nodes(
        self, positions: Int[Tensor, "span prompt"] | None = None
    ) -> Iterator[tuple[int, Float[Tensor, "span prompt"]]]:
        """For every sender, the metric with its output patched: at all positions (one span), or at one
        position of the text per prompt and span. A position of -1 patches nothing in that prompt."""
        for sender, node in enumerate(self.graph.senders):
            delta = self._at_positions(self.deltas[sender], positions)
            values = []
            for part in delta.split(self.at_once()):
                base = self.ablated.base
                if node.layer is None:
                    hidden = self.executor.rest(0, base.input + part)
                elif node.kind == "mlp":
                    after = base.after(node.layer)
                    hidden = self.executor.rest(node.layer + 1, after + part.to(after.device))
                else:
                    change = part.to(self.parts.blocks[node.layer].device)
                    hidden = self.executor.rest_after_attention(node.layer, base, change)
                values.append(self.objective(hidden))
            yield sender, torch.cat(values)

    def _at_positions(
        self, delta: Float[Tensor, "prompt pos d_model"], positions: Int[Tensor, "span prompt"] | None
    ) -> Float[Tensor, "span prompt pos d_model"]:
        if positions is None:
            return delta[None]
        chosen = self.ablated.batch.position_ids[:, self.ablated.start :] == positions[..., None]
        chosen = chosen.to(delta.device)
        return torch.where(chosen[..., None], delta, torch.zeros((), dtype=delta.dtype, device=delta.device))
