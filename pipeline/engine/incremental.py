"""Cached runs with edges taken out one after the other: what one more removal changes, and nothing else, is recomputed.

Knows receivers, alive nodes and variants. Does not know thresholds, nor the order in which edges are visited
(`pipeline.methods.acdc`), only that receivers are opened from the output to the input: then everything
upstream of the receiver at hand still is the clean run.

A node is *alive* when some receiver that was processed kept its edge. Only alive nodes are recomputed, and
only at the answer position unless a key or a value reads them, directly or through others. Where the heads of
a layer depend on each other (a norm over what they write, or over their queries), they live and are recomputed
together.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.core.graph import Graph, Node
from pipeline.engine.ablated import Ablated
from pipeline.engine.executor import Rows, finish
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
        self._answer_pos = ablated.answer_pos
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
            self._all_deltas = self._deltas.written(self._parts)
            self._answer_deltas = at_answer(self._all_deltas, self._answer_pos)
        else:
            answer = self._deltas.at_answer(self._answer_pos)
            self._answer_deltas = answer.written(self._parts)

    # --- questions ---------------------------------------------------------------------------------------

    def alive(self, receiver: int) -> bool:
        """True when what this receiver changes is still read by somebody (`logits` always is)."""
        if receiver == self.graph.logits_receiver:
            return True
        return any(self._readers.get(sender) for sender in self._changed_by(receiver))

    def _coupled(self, layer: int) -> bool:
        return self._parts.blocks[layer].coupled

    def _changed_by(self, receiver: int) -> range:
        """Senders whose output a receiver changes: what it feeds, or all heads of a layer that couples them."""
        node, graph = self.graph.receivers[receiver], self.graph
        if node.kind == "head" and node.layer is not None and self._coupled(node.layer):
            return range(graph.head_sender(node.layer), graph.mlp_sender(node.layer))
        return graph.senders_fed_by(receiver)

    def _needs_all_rows(self, receiver: int) -> bool:
        node = self.graph.receivers[receiver]
        if node.port in ("k", "v"):
            return True
        return any(sender in self._full for sender in self._changed_by(receiver))

    # --- one receiver ------------------------------------------------------------------------------------

    def open(self, receiver: int) -> None:
        """Starts a receiver: from now on its input has a state of its own, at first the clean one."""
        node = self.graph.receivers[receiver]
        x = self._clean_input(node)
        self._inputs[receiver] = x if self._needs_all_rows(receiver) else at_answer(x, self._answer_pos)
        for sender in self._changed_by(receiver):
            if self._readers.get(sender) and sender not in self._outputs:
                self._outputs[sender] = self._clean_output(sender)

    def keep(self, receiver: int, sender: int) -> None:
        """Decides that `receiver` goes on reading `sender`."""
        self._readers.setdefault(sender, []).append(receiver)
        if self._needs_all_rows(receiver):
            node, graph = self.graph.senders[sender], self.graph
            if node.kind == "head" and node.layer is not None and self._coupled(node.layer):
                self._full.update(range(graph.head_sender(node.layer), graph.mlp_sender(node.layer)))
            else:
                self._full.add(sender)

    def variants(self, receiver: int, senders: Sequence[int]) -> Float[Tensor, "variant prompt row d_model"]:
        """Inputs of the receiver with the first, the first two, ... of `senders` ablated on top of what already is.

        The differences are added one after the other, never by a parallel scan: the rounding must not depend
        on the device.
        """
        x = self._inputs[receiver]
        all_rows = x.shape[-2] != 1 or self._needs_all_rows(receiver)
        deltas = self._sender_deltas(senders, x.device, all_rows=all_rows)
        out = torch.empty(len(senders), *x.shape, dtype=x.dtype, device=x.device)
        for variant in range(len(senders)):
            torch.add(x, deltas[variant], out=out[variant])
            x = out[variant]
        return out

    def _sender_deltas(
        self, senders: Sequence[int], device: torch.device, *, all_rows: bool
    ) -> Float[Tensor, "variant prompt row d_model"]:
        if not all_rows:
            return self._answer_deltas[list(senders)].to(device)
        if self._all_deltas is not None:
            return self._all_deltas[list(senders)].to(device)
        nodes = (self.graph.senders[sender] for sender in senders)
        return torch.stack([self._deltas.written_by(node, self._parts).to(device) for node in nodes])

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
        """Projects the changed receivers of a layer and recomputes the heads that they change."""
        graph, block = self.graph, self._parts.blocks[layer]
        first, last = graph.head_receiver(layer, "q"), graph.mlp_receiver(layer)
        changed = [receiver for receiver in trial.inputs if first <= receiver < last]
        if not changed:
            return
        heads: set[int] = set()
        for receiver in changed:
            x = trial.inputs[receiver]
            port: Port = graph.receivers[receiver].port  # type: ignore[assignment]  # below the MLP's all have one
            fed: Sequence[int] = graph.heads_fed_by(receiver)
            if not block.coupled:
                fed = [h for h in fed if self._readers.get(graph.head_sender(layer, h))]
            normed = block.norm1(x)[None]
            if block.joint_qk:
                projected = self.executor.project_raw(layer, port, fed[:1], normed)[0]
            else:
                projected = self.executor.project(layer, port, fed[:1], normed, self._rows(layer, normed))[0]
            for head in fed:  # heads that share a key or a value share its projection
                trial.ports[layer, port, head] = projected
            heads.update(fed)
        if block.coupled:
            self._run_coupled(layer, trial)
            return
        scale = None if block.multiplier == 1.0 else block.multiplier
        for head in sorted(heads):
            sender = graph.head_sender(layer, head)
            q, k, v = (self._port(layer, port, head, sender, trial) for port in ("q", "k", "v"))
            z = self._head_rows(layer, sender).attend(q[None], k[None], v[None], [head])
            z = z.expand(-1, trial.values.shape[0], -1, -1, -1)
            self._spread(sender, self.executor.head_outputs(layer, [head], z, scale)[0], trial)

    def _run_coupled(self, layer: int, trial: Trial) -> None:
        """Recomputes all heads of a layer, of which each changes what the others write."""
        graph, block, heads = self.graph, self._parts.blocks[layer], range(self.graph.n_heads)
        n_variants, sender = trial.values.shape[0], graph.head_sender(layer)
        rows = self._head_rows(layer, sender)
        ports = {}
        for port in ("q", "k", "v"):
            each = [self._port(layer, port, head, sender, trial) for head in heads]
            ports[port] = torch.stack([x.expand(n_variants, -1, -1, -1) for x in each])
        if block.joint_qk:
            ports["q"] = finish(block, "q", ports["q"], rows, heads)
            ports["k"] = finish(block, "k", ports["k"], self.executor.every[layer], heads)
        z = rows.attend(ports["q"], ports["k"], ports["v"], heads)
        alive = [head for head in heads if self._readers.get(graph.head_sender(layer, head))]
        outputs = self.executor.head_outputs(layer, alive, z[alive], self.executor.scale_of(layer, z))
        for head, out in zip(alive, outputs, strict=True):
            self._spread(graph.head_sender(layer, head), out, trial)

    def _head_rows(self, layer: int, sender: int) -> Rows:
        """The rows at which a head's output is needed."""
        return self.executor.every[layer] if sender in self._full else self.executor.answer[layer]

    def _rows(self, layer: int, x: Tensor) -> Rows:
        answer = self.executor.answer[layer]
        return answer if x.shape[-2] == 1 else self.executor.every[layer]

    def _port(
        self, layer: int, port: str, head: int, sender: int, trial: Trial
    ) -> Float[Tensor, "variant prompt row d_head"]:
        """A head's q, k or v (before their norm where that is over all heads): changed by the trial, else the
        current one, else the clean one."""
        key = (layer, port, head)
        value = trial.ports.get(key)
        if value is None:
            value = self._ports.get(key)
            if value is None:
                joint = self._parts.blocks[layer].joint_qk and port != "v"
                value = getattr(self.clean.layers[layer], f"{port}_raw" if joint else port)[:, head]
            value = value[None]
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
            change = answer if x.shape[-2] == 1 and answer is not None else delta
            trial.inputs[receiver] = x + change.to(x.device)

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
        record, block = self.clean.layers[node.layer], self._parts.blocks[node.layer]
        if node.kind == "mlp":
            out = record.mlp
        else:
            out = record.z_written[:, :, node.head] @ block.projections.out[node.head]
            if (gain := block.post_gain) is not None:
                out = out * gain
        return out if sender in self._full else at_answer(out, self._answer_pos)
