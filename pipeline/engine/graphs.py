"""Passes of attribution in static shapes, as CUDA graphs: two launches in place of the thousands of a forward and a
backward pass, which is what small models wait for.

A shape is captured once and replayed for every batch and step of it: ids, positions, answers, embeddings, and the keys,
values and masks of the prefix are copied into the tensors that the graphs read. Batches are widened to a multiple of
`COLUMNS` before (`Batch.widened`), so that shapes come back. Without CUDA the same code runs without capture, and so
it does where a capture fails: one warning says why. Knows passes and tensors. Does not know methods or metrics.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any
from weakref import ref

import torch
from torch import Tensor

from pipeline.engine.attending import Past
from pipeline.engine.passes import Layers, Passes
from pipeline.engine.prefix import Prefix
from pipeline.engine.receiver_gradients import LayerGradients
from pipeline.engine.senders import SenderValues
from pipeline.models.adapters import Port

COLUMNS = 16  # lengths, and where prefixes end, are multiples of it
_KEPT = 8  # shapes; the oldest goes first
_WARM = 3  # passes before a capture, as torch's own `make_graphed_callables` makes
_PORTS: tuple[Port, ...] = ("q", "k", "v")


class Graphs:
    """The shapes of one model."""

    def __init__(self) -> None:
        self._shapes: dict[Any, _Shape] = {}
        self._pool: Any = None
        self.refused: str | None = None  # why nothing is captured

    def forward(
        self, passes: Passes, embeddings: Tensor | None = None
    ) -> "tuple[Tensor, SenderValues, Callable[[Tensor], tuple[Layers, Tensor]]]":
        """As `Passes.forward` of passes with a prefix. The way back is open until the next call."""
        key = _key(passes, embeddings)
        shape = self._shapes.pop(key, None)
        if shape is None:
            shape = _Shape(passes, embeddings)
            if self.refused is None and captures(passes.batch.clean.device):
                self._capture(shape)
            while len(self._shapes) >= _KEPT:
                self._shapes.pop(next(iter(self._shapes)))
        self._shapes[key] = shape
        return shape.forward(passes, embeddings)

    def _capture(self, shape: "_Shape") -> None:
        try:
            if self._pool is None:
                self._pool = torch.cuda.graph_pool_handle()
            shape.capture(self._pool)
        except RuntimeError as error:  # of the driver, or what it does not allow while capturing
            self.refused = (str(error).strip().splitlines() or [type(error).__name__])[0]
            warnings.warn(
                f"CUDA graphs are off, passes run without: {self.refused}", RuntimeWarning, stacklevel=2
            )
            shape.graphs = None


def captures(device: torch.device) -> bool:
    """Whether there are graphs on that device."""
    return device.type == "cuda"


def _key(passes: Passes, embeddings: Tensor | None) -> Any:
    assert passes.prefix is not None, "what masks are taken from"
    layers = passes.prefix.layers
    shared = {past.mask.data_ptr(): index for index, past in reversed(list(enumerate(layers)))}
    masks = tuple((tuple(past.mask.shape), shared[past.mask.data_ptr()]) for past in layers)
    return (
        passes.prefix.start,
        tuple(passes.batch.clean.shape),
        passes.batch.n_reads,
        masks,
        embeddings is None,
    )


@dataclass
class _Captured:
    forward: Any
    backward: Any


class _Shape:
    """Passes whose inputs lie in tensors of their own, and what they left there."""

    def __init__(self, passes: Passes, embeddings: Tensor | None) -> None:
        prefix, batch = passes.prefix, passes.batch
        assert prefix is not None, "what masks are taken from"
        self._masks: dict[int, Tensor] = {}  # one for all layers that share it
        self._which = [past.mask.data_ptr() for past in prefix.layers]
        for past, which in zip(prefix.layers, self._which, strict=True):
            self._masks.setdefault(which, past.mask.clone())
        self._which = [list(self._masks).index(which) for which in self._which]
        self._masks = dict(enumerate(self._masks.values()))
        self._k, self._v = (torch.stack(x) for x in _keys_and_values(prefix))
        self._embeddings = None if embeddings is None else embeddings.clone()
        self._batch = replace(
            batch,
            clean=batch.clean.clone(),
            position_ids=batch.position_ids.clone(),
            answer_pos=batch.answer_pos.clone(),
            # never looked at, since masks are those of the prefix; given, so that the model makes none: it would ask
            # the device about padding
            mask_4d=prefix.layers[0].k.new_zeros(batch.n_prompts, 1, batch.length, batch.length),
        )
        layers = tuple(
            Past(self._k[i], self._v[i], self._masks[which]) for i, which in enumerate(self._which)
        )
        self._passes = replace(passes, batch=self._batch, prefix=Prefix(prefix.start, layers))
        self._filled = ref(prefix)
        self.graphs: _Captured | None = None

    def forward(
        self, passes: Passes, embeddings: Tensor | None
    ) -> "tuple[Tensor, SenderValues, Callable[[Tensor], tuple[Layers, Tensor]]]":
        self._fill(passes, embeddings)
        if self.graphs is None:
            hidden, senders, backward = self._passes.forward(self._embeddings)
            left = _stacked_senders(senders)
            return hidden.detach().requires_grad_(), _senders(left), lambda g: _layers(_stacked(*backward(g)))
        self.graphs.forward.replay()
        return self._hidden.clone().requires_grad_(), _senders(self._senders), self._replay

    def _replay(self, gradient: Tensor) -> tuple[Layers, Tensor]:
        assert self.graphs is not None, "it is what was captured"
        self._gradient.copy_(gradient)
        self.graphs.backward.replay()
        return _layers(self._found)

    def _fill(self, passes: Passes, embeddings: Tensor | None) -> None:
        """Copies what passes read to where the graphs read it."""
        prefix = passes.prefix
        assert prefix is not None, "what masks are taken from"
        self._batch.clean.copy_(passes.batch.clean)
        self._batch.position_ids.copy_(passes.batch.position_ids)
        self._batch.answer_pos.copy_(passes.batch.answer_pos)
        if self._embeddings is not None and embeddings is not None:
            self._embeddings.copy_(embeddings)
        if self._filled() is prefix:
            return
        self._filled = ref(prefix)
        for kept, new in zip((self._k, self._v), _keys_and_values(prefix), strict=True):
            torch.stack(new, out=kept)
        for past, which in zip(prefix.layers, self._which, strict=True):
            self._masks[which].copy_(past.mask)

    def capture(self, pool: Any) -> None:
        """Records both passes, after some that set up what libraries set up when they are first used."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM):
                hidden, senders, backward = self._passes.forward(self._embeddings)
                _stacked_senders(senders)
                _stacked(*backward(torch.zeros_like(hidden)))
        torch.cuda.current_stream().wait_stream(stream)
        self._gradient = torch.zeros_like(hidden)
        del hidden, senders, backward
        graphs = _Captured(torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph())
        # Where a capture fails torch leaves its own stream current; the outer block takes that back.
        with torch.cuda.stream(torch.cuda.current_stream()):
            with torch.cuda.graph(graphs.forward, pool=pool):
                hidden, senders, backward = self._passes.forward(self._embeddings)
                self._hidden, self._senders = hidden.detach(), _stacked_senders(senders)
            with torch.cuda.graph(graphs.backward, pool=pool):
                self._found = _stacked(*backward(self._gradient))
        self.graphs = graphs


def _keys_and_values(prefix: Prefix) -> tuple[list[Tensor], list[Tensor]]:
    return [past.k for past in prefix.layers], [past.v for past in prefix.layers]


# What a replay leaves is overwritten by the next, so that it is copied: one copy for all layers.


def _stacked_senders(senders: SenderValues) -> Sequence[Tensor]:
    return senders.input, torch.stack(senders.z), torch.stack(senders.mlp)


def _senders(stacked: Sequence[Tensor]) -> SenderValues:
    input_, z, mlp = (x.clone() for x in stacked)
    return SenderValues(input_, tuple(z), tuple(mlp))


def _stacked(layers: Layers, final: Tensor) -> Sequence[Tensor]:
    ports = [torch.stack([layer.ports[port] for layer in layers]) for port in _PORTS]
    rest = [torch.stack([getattr(layer, name) for layer in layers]) for name in ("resid", "mid", "mlp_in")]
    return *ports, *rest, final


def _layers(stacked: Sequence[Tensor]) -> tuple[Layers, Tensor]:
    q, k, v, resid, mid, mlp_in, final = (x.clone() for x in stacked)
    return tuple(
        LayerGradients(resid[i], mid[i], {"q": q[i], "k": k[i], "v": v[i]}, mlp_in[i]) for i in range(len(q))
    ), final
