"""A forward pass of the stock model for attribution, and the backward pass through it: what every sender writes, and
gradients at what projections make and MLPs read.

The metric stands between the two and belongs to neither: the forward pass ends at the final hidden states where answers
are read, the backward pass begins with a gradient there. Knows recording and norms. Does not know metrics, graphs or
what is done with gradients.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.engine.backward import LIVE, BackwardRules
from pipeline.engine.batch import Batch
from pipeline.engine.capture import LayerContext, mid_of, raw_heads
from pipeline.engine.executor import Rows, finish
from pipeline.engine.prefix import Prefix
from pipeline.engine.receiver_gradients import LayerGradients
from pipeline.engine.recording import recording, run_base
from pipeline.engine.senders import SenderValues, at_answer, senders_of
from pipeline.models.adapters import Block, Parts, Port
from pipeline.models.stock import PreTrainedModel

Layers = tuple[LayerGradients, ...]


@dataclass(frozen=True)
class Passes:
    """The passes of one batch: what comes after the `prefix`, on the clean side."""

    hf: PreTrainedModel
    parts: Parts
    batch: Batch
    rules: BackwardRules = LIVE
    prefix: Prefix | None = None

    def forward(
        self, embeddings: Float[Tensor, "prompt pos d_model"] | None = None
    ) -> "tuple[Float[Tensor, 'prompt *read d_model'], SenderValues, Backward]":
        """Hidden states at the answer, which gradients can be taken of; what senders write; and the way back. With
        `embeddings` in place of what enters block 0."""
        with (
            torch.enable_grad(),
            self.rules.applied(self.parts),
            recording(
                self.hf,
                self.parts,
                exact=False,
                frozen=self.rules.attention == "frozen",
                prefix=self.prefix,
            ) as records,
            _leaf_input(self.parts, embeddings),
        ):
            hidden = run_base(self.hf, self.parts, self.batch.clean, self.batch)
            read = at_answer(hidden, self.batch.answer_pos).squeeze(-2)
        return read, senders_of(self.parts, records[:-1]), Backward(self.parts, self.rules, read, records)


@dataclass(frozen=True)
class Backward:
    """The way back through a forward pass; it can be gone once."""

    parts: Parts
    rules: BackwardRules
    hidden: Tensor
    records: list[dict[str, Any]]

    def __call__(
        self, gradient: Float[Tensor, "prompt *read d_model"]
    ) -> tuple[Layers, Float[Tensor, "prompt pos d_model"]]:
        """Gradients at every layer's receivers and at the final norm's input, given those at the hidden states."""
        layers, last = self.records[:-1], self.records[-1]
        wanted = [record[name] for record in layers for name in ("q", "k", "v", "mlp_in")] + [last["final"]]
        found = torch.autograd.grad(
            self.hidden, wanted, gradient, materialize_grads=self.rules.attention == "frozen"
        )
        out = []
        with self.rules.applied(self.parts):
            for layer, (block, record) in enumerate(zip(self.parts.blocks, layers, strict=True)):
                q, k, v, mlp_in = found[4 * layer : 4 * layer + 4]
                ports: dict[Port, Tensor] = {
                    "q": _before_norm_and_rotary(block, "q", record, q),
                    "k": _before_norm_and_rotary(block, "k", record, k),
                    "v": v,
                }
                resid = record["resid"].detach()
                mlp_in = mlp_in.reshape(resid.shape)
                mid = mid_of(block, record).detach()
                out.append(LayerGradients(resid, mid, ports, mlp_in, frozen=self.rules.norm == "frozen"))
        return tuple(out), found[-1]


@contextmanager
def _leaf_input(parts: Parts, embeddings: Tensor | None) -> Iterator[None]:
    """While open, block 0 reads a leaf that needs a gradient: the graph starts there, weights stay frozen."""

    def replace(
        _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        x = (args[0] if args else kwargs["hidden_states"]) if embeddings is None else embeddings
        x = x.detach().requires_grad_()
        return ((x, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": x})

    # First of all hooks, so that what is recorded is the leaf.
    handle = parts.blocks[0].module.register_forward_pre_hook(replace, with_kwargs=True, prepend=True)
    try:
        yield
    finally:
        handle.remove()


def _before_norm_and_rotary(
    block: Block, port: Port, record: dict[str, Any], gradient: Tensor
) -> Float[Tensor, "prompt head pos d_head"]:
    """The gradient at what the projection of q or k made, one per query head."""
    rotary = record["rotary"]
    if rotary is None and block.q_norm is None and block.q_scale == 1.0:
        return gradient
    context = LayerContext(None, rotary, 1.0)
    point = torch.zeros_like(gradient)  # everything but the norm is linear
    if block.q_norm is not None:
        point = raw_heads(block, record, port).detach()
    backward = torch.func.vjp(
        lambda raw: finish(block, port, raw, Rows.all(context), range(block.n_heads), head_axis=-3), point
    )[1]
    return backward(gradient)[0]
