"""Cached runs with edges taken out one after the other: what one more removal changes, and nothing else, is recomputed.

Knows receivers, alive nodes and variants. Does not know thresholds, nor the order in which edges are visited
(`pipeline.methods.acdc`), only that receivers are opened from the output to the input: then everything
upstream of the receiver at hand still is the clean run.

A node is *alive* when some receiver that was processed kept its edge. Only alive nodes are recomputed, and
only at the answer position unless a key or a value reads them, directly or through others.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.core.graph import Graph, Node
from pipeline.engine.ablated import Ablated
from pipeline.engine.capture import LayerRecord, attend
from pipeline.engine.executor import Rows
from pipeline.engine.readout import Objective
from pipeline.engine.senders import at_answer
from pipeline.models.adapters import Parts, Port

# Bytes that all senders' differences at all positions may take before they are computed on the fly.
_CACHED_DELTAS = 2**29


@dataclass
class Trial:
    """Variants of one receiver's input, all that each of them changes, and the metric of each."""

    values: Float[Tensor, "variant prompt"]
    inputs: dict[int, Float[Tensor, "variant prompt row d_model"]] = field(default_factory=dict)
    ports: dict[tuple[int, str, int], Float[Tensor, "variant prompt row d_head"]] = field(
        default_factory=dict
    )
    outputs: dict[int, Float[Tensor, "variant prompt row d_model"]] = field(default_factory=dict)


class Incremental:
    """The state of one batch while edges are removed. All methods run without gradients."""

    def __init__(self, parts: Parts, graph: Graph, ablated: Ablated, objective: Objective) -> None:
        self.graph = graph
        self.executor = ablated.executor
        self.objective = objective
        self.clean = ablated.base
        self._parts = parts
        self._deltas = ablated.deltas
        self._answer_pos = ablated.batch.answer_pos
        self._readers: dict[int, list[int]] = {}  # sender -> receivers that kept its edge
        self._full: set[int] = set()  # senders whose output is needed at all positions
        self._inputs: dict[int, Tensor] = {}  # receiver -> its current input
        self._outputs: dict[int, Tensor] = {}  # alive sender -> its current output
        self._ports: dict[tuple[int, str, int], Tensor] = {}  # (layer, port, head) -> current q, k or v
        self.values: Float[Tensor, " prompt"] = objective(self.executor.answer_hidden(self.clean))
        self._cache_deltas()

    def _cache_deltas(self) -> None:
        """All senders' differences at the answer, and at every position where that fits."""
        x = self._deltas.input
        n_bytes = x.numel() * x.element_size() * self.graph.n_senders
        self._all_deltas: Tensor | None = None
        if n_bytes <= _CACHED_DELTAS:
            self._all_deltas = self._deltas.written(self._parts).transpose(0, 1).contiguous()
            self._answer_deltas = at_answer(self._all_deltas, self._answer_pos)
        else:
            answer = self._deltas.at_answer(self._answer_pos)
            self._answer_deltas = answer.written(self._parts).transpose(0, 1).contiguous()

    # --- questions ---------------------------------------------------------------------------------------

    def alive(self, receiver: int) -> bool:
        """True when what this receiver feeds is still read by somebody (`logits` always is)."""
        if receiver == self.graph.logits_receiver:
            return True
        return any(self._readers.get(sender) for sender in self.graph.senders_fed_by(receiver))

    def _needs_all_rows(self, receiver: int) -> bool:
        node = self.graph.receivers[receiver]
        if node.port in ("k", "v"):
            return True
        return any(sender in self._full for sender in self.graph.senders_fed_by(receiver))

    # --- one receiver ------------------------------------------------------------------------------------

    def open(self, receiver: int) -> None:
        """Starts a receiver: from now on its input has a state of its own, at first the clean one."""
        node = self.graph.receivers[receiver]
        x = self._clean_input(node)
        self._inputs[receiver] = x if self._needs_all_rows(receiver) else at_answer(x, self._answer_pos)
        for sender in self.graph.senders_fed_by(receiver):
            if self._readers.get(sender) and sender not in self._outputs:
                self._outputs[sender] = self._clean_output(sender)

    def keep(self, receiver: int, sender: int) -> None:
        """Decides that `receiver` goes on reading `sender`."""
        self._readers.setdefault(sender, []).append(receiver)
        if self._needs_all_rows(receiver):
            self._full.add(sender)

    def variants(self, receiver: int, senders: Sequence[int]) -> Float[Tensor, "variant prompt row d_model"]:
        """Inputs of the receiver with the first, the first two, ... of `senders` ablated on top of what already is.

        The differences are added one after the other, never by a parallel scan: the rounding must not depend
        on the device.
        """
        x = self._inputs[receiver]
        deltas = self._sender_deltas(senders, all_rows=x.shape[-2] != 1 or self._needs_all_rows(receiver))
        out = torch.empty(len(senders), *x.shape, dtype=x.dtype, device=x.device)
        for variant in range(len(senders)):
            torch.add(x, deltas[variant], out=out[variant])
            x = out[variant]
        return out

    def _sender_deltas(
        self, senders: Sequence[int], *, all_rows: bool
    ) -> Float[Tensor, "variant prompt row d_model"]:
        if not all_rows:
            return self._answer_deltas[list(senders)]
        if self._all_deltas is not None:
            return self._all_deltas[list(senders)]
        return torch.stack(
            [self._deltas.written_by(self.graph.senders[sender], self._parts) for sender in senders]
        )

    # --- running -----------------------------------------------------------------------------------------

    @torch.no_grad()
    def run(self, receiver: int, inputs: Float[Tensor, "variant prompt row d_model"]) -> Trial:
        """Propagates variants of one receiver's input through all alive nodes to the metric."""
        graph = self.graph
        trial = Trial(self.values.expand(inputs.shape[0], -1))
        trial.inputs[receiver] = inputs
        start = graph.receivers[receiver]
        first = graph.n_layers if start.layer is None else start.layer
        for layer in range(first, graph.n_layers):
            if start.kind == "head" or layer > first:
                self._run_heads(layer, trial)
            mlp = graph.mlp_receiver(layer)
            if mlp in trial.inputs:
                out = self.executor.mlp(layer, trial.inputs[mlp])
                self._spread(graph.mlp_sender(layer), out, trial)
        if graph.logits_receiver in trial.inputs:
            hidden = self.executor.read_out(trial.inputs[graph.logits_receiver]).squeeze(-2)
            trial.values = self.objective(hidden)
        return trial

    def _run_heads(self, layer: int, trial: Trial) -> None:
        """Projects the changed receivers of a layer and recomputes its alive heads."""
        graph, record = self.graph, self.clean.layers[layer]
        first, last = graph.head_receiver(layer, "q"), graph.mlp_receiver(layer)
        changed = [receiver for receiver in trial.inputs if first <= receiver < last]
        heads: set[int] = set()
        for receiver in changed:
            x = trial.inputs[receiver]
            node = graph.receivers[receiver]
            port: Port = node.port  # type: ignore[assignment]  # receivers below the MLP's all have a port
            alive = [
                h for h in graph.heads_fed_by(receiver) if self._readers.get(graph.head_sender(layer, h))
            ]
            normed = self._parts.blocks[layer].norm1(x)[None]
            rows = self._rows(layer, normed)
            projected = self.executor.project(layer, port, alive[:1], normed, rows)[0]
            for head in alive:  # heads that share a key or a value share its projection
                trial.ports[layer, port, head] = projected
            heads.update(alive)
        for head in sorted(heads):
            sender = graph.head_sender(layer, head)
            q, k, v = (self._port(record, layer, port, head, sender, trial) for port in ("q", "k", "v"))
            rows = self.executor.every[layer] if sender in self._full else self.executor.answer[layer]
            z = attend(q, k, v, rows.mask, rows.scaling)
            z = z.expand(trial.values.shape[0], -1, -1, -1)
            self._spread(sender, self.executor.head_outputs(layer, [head], z[None])[0], trial)

    def _rows(self, layer: int, x: Tensor) -> Rows:
        answer = self.executor.answer[layer]
        return answer if x.shape[-2] == 1 else self.executor.every[layer]

    def _port(
        self, record: LayerRecord, layer: int, port: str, head: int, sender: int, trial: Trial
    ) -> Float[Tensor, "variant prompt row d_head"]:
        """A head's q, k or v: changed by the trial, else the current one, else the clean one."""
        key = (layer, port, head)
        value = trial.ports.get(key)
        if value is None:
            value = self._ports.get(key)
            value = getattr(record, port)[:, head][None] if value is None else value[None]
        if port == "q" and sender not in self._full and value.shape[-2] != 1:
            value = at_answer(value, self._answer_pos)
        return value

    def _spread(self, sender: int, out: Float[Tensor, "variant prompt row d_model"], trial: Trial) -> None:
        """Adds the change of a sender's output to every receiver that kept its edge."""
        trial.outputs[sender] = out
        delta = out - self._outputs[sender]
        answer = delta if delta.shape[-2] == 1 else None
        for receiver in self._readers[sender]:
            x = trial.inputs.get(receiver, self._inputs[receiver])
            if x.shape[-2] == 1 and answer is None:
                answer = at_answer(delta, self._answer_pos)
            trial.inputs[receiver] = x + (answer if x.shape[-2] == 1 and answer is not None else delta)

    def commit(self, trial: Trial, variant: int) -> None:
        """Makes one variant of a trial the current state."""
        self.values = trial.values[variant]
        for receiver, x in trial.inputs.items():
            self._inputs[receiver] = x[variant].clone()  # not a view: it would keep all variants alive
        for sender, out in trial.outputs.items():
            self._outputs[sender] = out[variant].clone()
        for key, value in trial.ports.items():
            self._ports[key] = value[variant].clone()

    # --- the clean run -----------------------------------------------------------------------------------

    def _clean_input(self, node: Node) -> Float[Tensor, "prompt pos d_model"]:
        if node.layer is None:
            return self.clean.final
        record = self.clean.layers[node.layer]
        return record.mid if node.kind == "mlp" else record.resid

    def _clean_output(self, sender: int) -> Float[Tensor, "prompt row d_model"]:
        node = self.graph.senders[sender]
        assert node.layer is not None, "the input is never recomputed"
        record = self.clean.layers[node.layer]
        if node.kind == "mlp":
            out = record.mlp
        else:
            z = record.z[:, :, node.head]
            out = z @ self._parts.blocks[node.layer].out_weight[node.head]
        return out if sender in self._full else at_answer(out, self._answer_pos)
