"""Exact effects of patching one edge, or one node, with everything downstream recomputed.

An edge: the input of its receiver holds the sender's other value, everything upstream is frozen at the base
run, so only the receiver's own node changes, and then the rest of the network with it. Senders are batched as
variants; the rest of the network reads one residual per variant, as in a stock forward pass.

Knows captures, executor and graph. Does not know directions, signs or statistics.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.core.graph import Graph
from pipeline.engine.ablated import Ablated
from pipeline.engine.capture import attend
from pipeline.engine.executor import Executor
from pipeline.engine.readout import Objective
from pipeline.engine.senders import at_answer
from pipeline.models.adapters import Parts, Port

# Elements of a residual stream over variants, prompts and rows that are in flight at once (float32: 16 MiB).
_IN_FLIGHT = 2**22


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
        deltas = ablated.deltas.written(parts).transpose(0, 1).contiguous()
        return Patcher(parts, graph, ablated, objective, deltas)

    @property
    def executor(self) -> Executor:
        return self.ablated.executor

    @property
    def _answer_pos(self) -> Int[Tensor, " prompt"]:
        return self.ablated.batch.answer_pos

    def base_values(self) -> Float[Tensor, " prompt"]:
        """The metric of the unpatched base run."""
        return self.objective(self.executor.answer_hidden(self.ablated.base))

    def at_once(self) -> int:
        """Variants in flight at once."""
        return max(1, _IN_FLIGHT // self.ablated.base.input.numel())

    # --- edges -------------------------------------------------------------------------------------------

    @torch.no_grad()
    def edges(self) -> Iterator[tuple[int, Float[Tensor, "sender prompt"]]]:
        """For every receiver, the metric with each of its senders patched alone."""
        for layer in range(self.graph.n_layers):
            yield from self._head_edges(layer)
            yield self.graph.mlp_receiver(layer), self._mlp_edges(layer)
        yield self.graph.logits_receiver, self._logits_edges()

    def _logits_edges(self) -> Float[Tensor, "sender prompt"]:
        final = at_answer(self.ablated.base.final, self._answer_pos)
        hidden = self.executor.read_out(final + at_answer(self.deltas, self._answer_pos))
        return self.objective(hidden.squeeze(-2))

    def _mlp_edges(self, layer: int) -> Float[Tensor, "sender prompt"]:
        """The MLP reads a patched residual, but the residual itself goes on unpatched."""
        record, last = self.ablated.base.layers[layer], layer == self.graph.n_layers - 1
        n = int(self.graph.senders_read[self.graph.mlp_receiver(layer)])
        mid, deltas = record.mid, self.deltas[:n]
        if last:
            mid, deltas = at_answer(mid, self._answer_pos), at_answer(deltas, self._answer_pos)
        values = []
        for part in deltas.split(self.at_once()):
            out = mid + self.executor.mlp(layer, mid + part)
            values.append(self.objective(self.executor.rest(layer + 1, out)))
        return torch.cat(values)

    def _head_edges(self, layer: int) -> Iterator[tuple[int, Float[Tensor, "sender prompt"]]]:
        """Senders are normed once per layer; every port of every head projects from that."""
        graph, record = self.graph, self.ablated.base.layers[layer]
        n = int(graph.senders_read[graph.head_receiver(layer, "q")])
        sizes = {"q": graph.n_heads, "k": graph.n_ports, "v": graph.n_ports}
        values: dict[int, list[Tensor]] = {
            graph.head_receiver(layer, cast("Port", port), i): []
            for port, m in sizes.items()
            for i in range(m)
        }
        for part in self.deltas[:n].split(self.at_once()):
            normed = self.parts.blocks[layer].norm1(record.resid + part)
            for receiver, parts in values.items():
                mid = self._head_change(layer, receiver, normed)
                parts.append(self.objective(self.executor.rest_from_mid(layer, mid)))
        yield from ((receiver, torch.cat(parts)) for receiver, parts in values.items())

    def _head_change(
        self, layer: int, receiver: int, normed: Float[Tensor, "sender prompt pos d_model"]
    ) -> Float[Tensor, "sender prompt row d_model"]:
        """The residual after the attention of a layer when one receiver of its heads reads patched inputs."""
        graph, record, executor = self.graph, self.ablated.base.layers[layer], self.executor
        port = cast("Port", graph.receivers[receiver].port)
        heads = graph.heads_fed_by(receiver)
        last = layer == graph.n_layers - 1
        rows = executor.answer[layer] if last else executor.every[layer]
        q = record.q[:, heads.start : heads.stop].transpose(0, 1)[:, None]
        k = record.k[:, heads.start : heads.stop].transpose(0, 1)[:, None]
        v = record.v[:, heads.start : heads.stop].transpose(0, 1)[:, None]
        z = record.z[:, :, heads.start : heads.stop].permute(2, 0, 1, 3)[:, None]
        mid = record.mid
        if last:
            q, z, mid = (at_answer(x, self._answer_pos) for x in (q, z, mid))
            if port == "q":
                normed = at_answer(normed, self._answer_pos)
        every = rows if port == "q" else executor.every[layer]
        changed = executor.project(layer, port, heads[:1], normed[None], every)
        q, k, v = (changed if name == port else old for name, old in (("q", q), ("k", k), ("v", v)))
        new = attend(q, k, v, rows.mask, rows.scaling)
        return mid + executor.head_outputs(layer, heads, new - z).sum(0)

    # --- nodes -------------------------------------------------------------------------------------------

    @torch.no_grad()
    def nodes(
        self, positions: Int[Tensor, "span prompt"] | None = None
    ) -> Iterator[tuple[int, Float[Tensor, "span prompt"]]]:
        """For every sender, the metric with its output patched: at all positions (one span), or at one
        position per prompt and span. A position of -1 patches nothing in that prompt."""
        for sender, node in enumerate(self.graph.senders):
            delta = self._at_positions(self.deltas[sender], positions)
            values = []
            for part in delta.split(self.at_once()):
                if node.layer is None:
                    hidden = self.executor.rest(0, self.ablated.base.input + part)
                elif node.kind == "mlp":
                    record = self.ablated.base.layers[node.layer]
                    hidden = self.executor.rest(node.layer + 1, record.mid + record.mlp + part)
                else:
                    hidden = self.executor.rest_from_mid(
                        node.layer, self.ablated.base.layers[node.layer].mid + part
                    )
                values.append(self.objective(hidden))
            yield sender, torch.cat(values)

    @staticmethod
    def _at_positions(
        delta: Float[Tensor, "prompt pos d_model"], positions: Int[Tensor, "span prompt"] | None
    ) -> Float[Tensor, "span prompt pos d_model"]:
        if positions is None:
            return delta[None]
        steps = torch.arange(delta.shape[1], device=delta.device)
        chosen = steps == positions[..., None]
        return torch.where(chosen[..., None], delta, torch.zeros((), dtype=delta.dtype, device=delta.device))
