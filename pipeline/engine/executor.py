"""Parts of a forward pass, composed from the model's own modules and weights: single heads, and the rest of
the network.

Knows norms, projections, attention and blocks. Does not know graphs, metrics or which parts somebody wants to run.

Layout: variants of a run come first, `[variant, prompt, row, d_model]`; per-head tensors have the head before
them. Rows are all positions, or only the one at which the answer is read.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from pipeline.engine.capture import Capture, LayerContext, attend
from pipeline.engine.senders import at_answer
from pipeline.models.adapters import Block, Parts, Port


@dataclass(frozen=True)
class Rows:
    """The rows of one layer that are computed: their masks and rotary tables."""

    mask: Float[Tensor, "prompt row pos"] | None
    rotary: tuple[Float[Tensor, "prompt row rot"], Float[Tensor, "prompt row rot"]] | None
    scaling: float

    @staticmethod
    def all(context: LayerContext) -> "Rows":
        return Rows(context.mask, context.rotary, context.scaling)

    @staticmethod
    def answer(context: LayerContext, answer_pos: Int[Tensor, " prompt"]) -> "Rows":
        mask = None if context.mask is None else at_answer(context.mask, answer_pos)
        rotary = context.rotary
        if rotary is not None:
            rotary = (at_answer(rotary[0], answer_pos), at_answer(rotary[1], answer_pos))
        return Rows(mask, rotary, context.scaling)


@dataclass(frozen=True)
class Executor:
    """The parts of a model with the contexts of one batch."""

    parts: Parts
    every: tuple[Rows, ...]
    answer: tuple[Rows, ...]
    answer_pos: Int[Tensor, " prompt"]

    @staticmethod
    def for_run(parts: Parts, run: Capture, answer_pos: Int[Tensor, " prompt"]) -> "Executor":
        contexts = [layer.context for layer in run.layers]
        every = tuple(Rows.all(context) for context in contexts)
        return Executor(parts, every, tuple(Rows.answer(c, answer_pos) for c in contexts), answer_pos)

    @property
    def n_layers(self) -> int:
        return len(self.parts.blocks)

    # --- one head ----------------------------------------------------------------------------------------

    def project(
        self,
        layer: int,
        port: Port,
        heads: Sequence[int],
        normed: Float[Tensor, "head variant prompt row d_model"],
        rows: Rows,
    ) -> Float[Tensor, "head variant prompt row d_head"]:
        """q, k or v (rotary included) of some query heads, each from its own input or all from one ([1, ...])."""
        block = self.parts.blocks[layer]
        weight, bias = block.weights[port], block.biases[port]
        index = _kv_heads(block, port, heads)
        weight = weight[index]
        flat = normed.flatten(1, -2)
        projected = torch.matmul(flat, weight.transpose(1, 2))
        if bias is not None:
            projected = projected + bias[index][:, None]
        projected = projected.view(-1, *normed.shape[1:-1], projected.shape[-1])
        return projected if port == "v" else rotate(block, projected, rows, unsqueeze_dim=0)

    def head_outputs(
        self, layer: int, heads: Sequence[int], z: Float[Tensor, "head variant prompt row d_head"]
    ) -> Float[Tensor, "head variant prompt row d_model"]:
        """What heads with these z write to the residual stream."""
        weight = self.parts.blocks[layer].out_weight[_index(heads)]
        out = torch.matmul(z.flatten(1, -2), weight)
        return out.view(*z.shape[:-1], -1)

    def mlp(self, layer: int, x: Float[Tensor, "*lead d_model"]) -> Float[Tensor, "*lead d_model"]:
        """What the MLP writes when it reads `x` (before its norm)."""
        block = self.parts.blocks[layer]
        return block.mlp(block.norm2(x))

    def read_out(self, x: Float[Tensor, "*lead d_model"]) -> Float[Tensor, "*lead d_model"]:
        """Final hidden states of a residual."""
        return self.parts.final_norm(x)

    def answer_hidden(self, run: Capture) -> Float[Tensor, "prompt d_model"]:
        """Final hidden states at the answer of a recorded run."""
        return self.read_out(at_answer(run.final, self.answer_pos)).squeeze(-2)

    # --- the rest of the network -------------------------------------------------------------------------

    def block(
        self, layer: int, x: Float[Tensor, "variant prompt pos d_model"], *, answer_only: bool
    ) -> Float[Tensor, "variant prompt row d_model"]:
        """A whole block, all of its heads reading the same residual."""
        block = self.parts.blocks[layer]
        every = self.every[layer]
        rows = self.answer[layer] if answer_only else every
        normed = block.norm1(x)
        k = rotate(block, _all_heads(block, "k", normed), every, unsqueeze_dim=1)
        v = _all_heads(block, "v", normed)
        if answer_only:
            normed, x = at_answer(normed, self.answer_pos), at_answer(x, self.answer_pos)
        q = rotate(block, _all_heads(block, "q", normed), rows, unsqueeze_dim=1)
        if block.kv_group > 1:
            k, v = k.repeat_interleave(block.kv_group, -3), v.repeat_interleave(block.kv_group, -3)
        mask = None if rows.mask is None else rows.mask[:, None]
        z = attend(q, k, v, mask, rows.scaling).transpose(-2, -3)
        mid = x + block.out(z.flatten(-2))
        return mid + self.mlp(layer, mid)

    def rest(
        self, layer: int, x: Float[Tensor, "variant prompt row d_model"]
    ) -> Float[Tensor, "variant prompt d_model"]:
        """Final hidden states at the answer when `x` enters block `layer` (all blocks done: the final norm)."""
        for below in range(layer, self.n_layers):
            x = self.block(below, x, answer_only=below == self.n_layers - 1)
        if x.shape[-2] != 1:
            x = at_answer(x, self.answer_pos)
        return self.read_out(x).squeeze(-2)

    def rest_from_mid(
        self, layer: int, mid: Float[Tensor, "variant prompt row d_model"]
    ) -> Float[Tensor, "variant prompt d_model"]:
        """As `rest`, from the residual that the MLP of `layer` reads."""
        return self.rest(layer + 1, mid + self.mlp(layer, mid))


def _index(heads: Sequence[int]) -> slice | list[int]:
    """A slice where heads follow each other, so that weights stay views."""
    if list(heads) == list(range(heads[0], heads[0] + len(heads))):
        return slice(heads[0], heads[0] + len(heads))
    return list(heads)


def _kv_heads(block: Block, port: Port, heads: Sequence[int]) -> slice | list[int]:
    return _index(heads) if port == "q" else _index([head // block.kv_group for head in heads])


def _all_heads(
    block: Block, port: Port, normed: Float[Tensor, "*variant prompt row d_model"]
) -> Float[Tensor, "*variant prompt head row d_head"]:
    weight, bias = block.weights[port], block.biases[port]
    flat = functional.linear(normed, weight.flatten(0, 1), None if bias is None else bias.flatten())
    return flat.view(*normed.shape[:-1], *weight.shape[:2]).transpose(-2, -3)


def rotate(block: Block, x: Tensor, rows: Rows, *, unsqueeze_dim: int) -> Tensor:
    """`x` (one of query or key) under the model's own rotary embedding at `rows`, or as it is without one."""
    if rows.rotary is None or block.rotary is None:
        return x
    no_heads = x.narrow(0 if unsqueeze_dim == 0 else -3, 0, 0)  # the function rotates a pair; one is enough
    rotated, _ = block.rotary(x, no_heads, *rows.rotary, unsqueeze_dim=unsqueeze_dim)
    return rotated
