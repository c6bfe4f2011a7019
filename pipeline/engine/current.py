"""What the nodes of one state read and write: what has changed by now, and the clean run where nothing has.

Knows one state's tensors, and the rows at which each is needed (`pipeline.core.liveness`). Does not know how a change
reaches them (`pipeline.engine.incremental`).
"""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from pipeline.core.liveness import Liveness
from pipeline.engine.executor import Rows
from pipeline.engine.recorded import Recorded
from pipeline.engine.senders import at_answer
from pipeline.engine.trial import PortKey, Trial, compact, stacked
from pipeline.models.adapters import Port

# Bytes of unchanged queries, keys and values that a state remembers side by side.
_READS_BYTES = 2**24


class Current:
    """Inputs of alive receivers, outputs of alive senders (of heads, z), and q, k and v by head; `mute` says where an
    alive sender that has changed writes nothing."""

    def __init__(self, recorded: Recorded, liveness: Liveness) -> None:
        self.recorded = recorded
        self.liveness = liveness
        self.inputs: dict[int, Tensor] = {}
        self.outputs: dict[int, Tensor] = {}
        self.ports: dict[PortKey, Tensor] = {}
        self.mute: dict[int, Tensor] = {}
        self._together: dict[tuple[int, ...], Tensor] = {}  # heads -> their z
        # layer, port, heads, whether everywhere -> what they attend with, where nothing changes it
        self._reads: dict[tuple[int, Port, tuple[int, ...], bool], Tensor] = {}
        self._reads_bytes = 0

    def after(self, trial: Trial, liveness: Liveness) -> "Current":
        """What the first variant of a trial ends in."""
        after = Current(self.recorded, liveness)
        after.inputs = compact(self.inputs | {key: value[0] for key, value in trial.inputs.items()})
        after.outputs = self.outputs | {key: value[0] for key, value in trial.outputs.items()}
        after.ports = self.ports | {key: value[0] for key, value in trial.ports.items()}
        after.mute = self.mute | {key: value[0] for key, value in trial.mute.items()}
        return after

    def unpacked(
        self,
        layer: int,
        port: Port,
        heads: Sequence[int],
        value: Float[Tensor, "head variant _one row d_head"],
    ) -> Float[Tensor, "head variant prompt pos d_head"]:
        """What was projected at all rows, as attention reads it."""
        packing = self.recorded.packing
        if packing.kept is None or value.shape[-2] == self.recorded.executor.n_reads:
            return value
        clean = self._clean_port(layer, port)[:, heads].transpose(0, 1)[:, None]
        return packing.unpack(value, clean)

    def _clean_port(self, layer: int, port: str) -> Float[Tensor, "prompt head pos d_head"]:
        """q, k or v of all heads in the clean run; before their norm where that is over all heads."""
        joint = self.recorded.parts.blocks[layer].joint_qk and port != "v"
        found: Tensor = getattr(self.recorded.clean.layers[layer], f"{port}_raw" if joint else port)
        return found

    def port(
        self, layer: int, port: str, head: int, trial: Trial
    ) -> Float[Tensor, "variant prompt row d_head"]:
        """A head's q, k or v (before their norm where that is over all heads): changed by the trial, else the
        current one, else the clean one."""
        key = (layer, port, head)
        value = trial.ports.get(key)
        if value is None:
            value = self.ports.get(key)
            if value is None:
                value = self._clean_port(layer, port)[:, head]
            value = value[None]
        everywhere = self.recorded.graph.head_sender(layer, head) in self.liveness.everywhere
        if port == "q" and not everywhere and value.shape[-2] != self.recorded.executor.n_reads:
            value = at_answer(value, self.recorded.answer_pos)
        return value

    def read(
        self, layer: int, port: Port, heads: Sequence[int], trial: Trial, rows: Rows
    ) -> Float[Tensor, "head variant prompt row d_head"]:
        """q, k or v of heads of which all or none have it changed by the trial, as attention reads it; that of the
        state is made once."""
        changed = (layer, port, heads[0]) in trial.ports
        key = (layer, port, tuple(heads), rows is self.recorded.executor.every[layer])
        if not changed and key in self._reads:
            return self._reads[key]
        x = trial.projected(layer, port, heads) if changed else None
        if x is None:
            x = stacked([self.port(layer, port, head, trial) for head in heads])
        if port != "q":
            x = rows.joined(port, x, heads)
        n_bytes = x.numel() * x.element_size()
        if not changed and self._reads_bytes + n_bytes <= _READS_BYTES:
            self._reads[key] = x
            self._reads_bytes += n_bytes
        return x

    def output(self, sender: int) -> Float[Tensor, "prompt row width"]:
        """What an MLP writes in this state, or a head before its output projection, at the rows that matter."""
        if sender not in self.outputs:  # nothing has changed it yet
            clean, everywhere = self.recorded.clean_output(sender), sender in self.liveness.everywhere
            self.outputs[sender] = clean if everywhere else self.recorded.packing.at_answer(clean)
        return self.outputs[sender]

    def outputs_of(self, senders: tuple[int, ...]) -> Float[Tensor, "sender prompt row d_head"]:
        """`output` of several heads that are needed at the same rows."""
        if senders not in self._together:
            self._together[senders] = stacked([self.output(sender) for sender in senders])
        return self._together[senders]
