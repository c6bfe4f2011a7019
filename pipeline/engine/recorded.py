"""One batch's recorded runs while edges are removed: the clean run, and what removing each sender adds.

Knows captures, memory and which rows can change (`pipeline.engine.packed`): what is asked for at all rows comes packed.
Does not know receivers' states. All of it can be dropped and is then made again, bit for bit, when somebody asks: it
depends on the batch alone.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.core.graph import Graph, Node
from pipeline.engine.ablated import Ablated
from pipeline.engine.batch import Batch
from pipeline.engine.capture import Capture
from pipeline.engine.emptied import after_attention
from pipeline.engine.executor import Executor, Rows
from pipeline.engine.packed import Packing
from pipeline.engine.readout import Objective
from pipeline.models.adapters import Parts
from pipeline.models.footprint import DELTA_BYTES


@dataclass
class Recorded:
    """A batch's runs, recorded on demand by `make`."""

    parts: Parts
    graph: Graph
    batch: Batch
    make: Callable[[], tuple[Ablated, Objective]]
    _packing: Packing | None = field(default=None, init=False)

    @cached_property
    def _made(self) -> tuple[Ablated, Objective, Packing, tuple[Rows, ...]]:
        ablated, objective = self.make()
        if self._packing is None:  # it outlives what is dropped: states have tensors of its rows
            self._packing = Packing.of(ablated)
        packing = self._packing
        rows = tuple(packing.rows(every) for every in ablated.executor.every)
        return replace(ablated, deltas=ablated.deltas.at(packing.pack)), objective, packing, rows

    @property
    def clean(self) -> Capture:
        return self._made[0].base

    @property
    def executor(self) -> Executor:
        return self._made[0].executor

    @property
    def objective(self) -> Objective:
        return self._made[1]

    @property
    def packing(self) -> Packing:
        """Which rows there are."""
        return self._made[2]

    @property
    def rows(self) -> tuple[Rows, ...]:
        """Of each layer, for what is projected of them."""
        return self._made[3]

    @property
    def answer_pos(self) -> Tensor:
        return self._made[0].answer_pos

    @property
    def n_prompts(self) -> int:
        return self.batch.n_prompts

    @cached_property
    def _all_deltas(self) -> Float[Tensor, "sender prompt pos d_model"] | None:
        deltas = self._made[0].deltas
        n_bytes = deltas.input.numel() * deltas.input.element_size() * self.graph.n_senders
        return deltas.written(self.parts) if n_bytes <= DELTA_BYTES else None

    @cached_property
    def _answer_deltas(self) -> Float[Tensor, "sender prompt row d_model"]:
        if self._all_deltas is not None:
            return self.packing.at_answer(self._all_deltas)
        return self._made[0].deltas.at(self.packing.at_answer).written(self.parts)

    def deltas(
        self, senders: Sequence[int], device: torch.device, *, all_rows: bool
    ) -> Float[Tensor, "sender prompt row d_model"]:
        """What the removal of each of these senders adds to an input that reads it."""
        if not all_rows:
            return _rows(self._answer_deltas, senders).to(device)
        if self._all_deltas is not None:
            return _rows(self._all_deltas, senders).to(device)
        deltas, nodes = self._made[0].deltas, (self.graph.senders[sender] for sender in senders)
        return torch.stack([deltas.written_by(node, self.parts).to(device) for node in nodes])

    def rows_of(self, x: Tensor, like: Tensor) -> Tensor:
        """`x` at the rows of `like`: all, or that of the answer."""
        return self.packing.at_answer(x) if x.shape[-2] != like.shape[-2] else x

    @property
    def silent(self) -> bool:
        """Whether what is removed writes nothing."""
        return self._made[0].silent

    def constants(self, receiver: int) -> Float[Tensor, "prompt pos d_model"]:
        """What a receiver reads of which every sender is removed and writes nothing: output biases of attention."""
        node, x = self.graph.receivers[receiver], torch.zeros_like(self.clean.input)
        for block in self.parts.blocks:
            above = node.layer is None or block.layer < node.layer
            if above or (block.layer == node.layer and node.kind == "mlp" and not block.parallel):
                x = x.to(block.device)
                x = after_attention(self.clean, block, x, torch.zeros_like(x[:1, :1]))
        return self.packing.pack(x.to(self.clean.input.device))

    def clean_input(self, node: Node) -> Float[Tensor, "prompt pos d_model"]:
        """What a receiver reads in the clean run."""
        if node.layer is None:
            return self.packing.pack(self.clean.final)
        record = self.clean.layers[node.layer]
        return self.packing.pack(record.mid if node.kind == "mlp" else record.resid)

    def clean_attention(self, layer: int) -> Float[Tensor, "prompt pos d_model"]:
        """What a layer's output projection makes in the clean run."""
        return self.packing.pack(self.clean.layers[layer].attn_raw)

    def clean_output(self, sender: int) -> Float[Tensor, "prompt pos width"]:
        """What an MLP writes in the clean run, or a head before its output projection."""
        node = self.graph.senders[sender]
        assert node.layer is not None, "the input is never recomputed"
        record = self.clean.layers[node.layer]
        return self.packing.pack(record.mlp if node.kind == "mlp" else record.z_written[:, :, node.head])

    def n_bytes(self) -> int:
        """What the recorded runs take, with all differences that are ever kept of them."""
        _ = self._answer_deltas
        seen = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in _tensors(self._made)}
        for cached in (self.__dict__.get("_all_deltas"), self.__dict__.get("_answer_deltas")):
            if cached is not None:
                seen[cached.untyped_storage().data_ptr()] = cached.untyped_storage().nbytes()
        return sum(seen.values())

    def drop(self) -> None:
        """Lets go of everything; the next question records it again."""
        for name in ("_made", "_all_deltas", "_answer_deltas"):
            self.__dict__.pop(name, None)


def _rows(x: Float[Tensor, "sender *lead"], senders: Sequence[int]) -> Float[Tensor, "_sender *lead"]:
    """`x[senders]`, in a third of the time where it is small: a list as an index is dear to read."""
    return x.index_select(0, torch.tensor(list(senders), device=x.device))


def _tensors(value: Any) -> Iterator[Tensor]:
    """Tensors of nested dataclasses and sequences, but for the model's own."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)
    elif is_dataclass(value) and not isinstance(value, Parts):
        for entry in fields(value):
            if entry.name != "unembedding":
                yield from _tensors(getattr(value, entry.name))
