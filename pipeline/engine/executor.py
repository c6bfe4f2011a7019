"""Parts of a forward pass, composed from the model's own modules and weights: single heads, and the rest of
the network.

Knows norms, projections, attention and blocks. Does not know graphs, metrics or which parts somebody wants to run.

Layout: variants of a run come first, `[variant, prompt, row, d_model]`; per-head tensors have the head before
them. Rows are all positions, or only those at which answers are read: one, unless answers have several tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call

from pipeline.engine.attending import attend
from pipeline.engine.capture import Capture, LayerContext, write_scale
from pipeline.engine.products import linear, quick_modules
from pipeline.engine.senders import at_answer
from pipeline.models.adapters import Block, Parts, Port


@dataclass(frozen=True)
class Rows:
    """The rows of one layer that are computed: their masks and rotary tables."""

    mask: Float[Tensor, "prompt row key"] | None
    rotary: tuple[Float[Tensor, "prompt row rot"], Float[Tensor, "prompt row rot"]] | None
    scaling: float
    softcap: float | None = None
    past: tuple[Tensor, Tensor] | None = None

    @staticmethod
    def all(context: LayerContext) -> "Rows":
        return Rows(context.mask, context.rotary, context.scaling, context.softcap, context.past)

    @staticmethod
    def answer(context: LayerContext, answer_pos: Int[Tensor, "prompt *read"]) -> "Rows":
        rows = Rows.all(context)
        rotary = context.rotary
        if rotary is not None:
            rotary = (at_answer(rotary[0], answer_pos), at_answer(rotary[1], answer_pos))
        mask = None if context.mask is None else at_answer(context.mask, answer_pos)
        return replace(rows, mask=mask, rotary=rotary)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, heads: Sequence[int]) -> Tensor:
        """Attention of query heads at these rows: `[head, variant, prompt, row, d_head]`, or heads before rows
        in `[variant, prompt, head, row, d_head]` (`attend_all`). Keys and values of earlier positions come from
        the recorded run."""
        return self.attend_joined(q, self.joined("k", k, heads), self.joined("v", v, heads))

    def attend_joined(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The same with keys and values that are `joined` already."""
        return attend(q, k, v, self.mask, self.scaling, self.softcap)

    def joined(self, port: Port, x: Tensor, heads: Sequence[int]) -> Tensor:
        """Keys or values of these heads, behind those of earlier positions."""
        if self.past is None:
            return x
        past = self.past[0 if port == "k" else 1]
        return _after(past[:, index_of(heads)].transpose(0, 1)[:, None], x)

    def attend_all(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention of all heads of a layer, `[variant, prompt, head, row, d_head]`."""
        if self.past is not None:
            k, v = (_after(past[None], x) for past, x in zip(self.past, (k, v), strict=True))
        mask = None if self.mask is None else self.mask[:, None]
        return attend(q, k, v, mask, self.scaling, self.softcap)


def _after(past: Tensor, x: Tensor) -> Tensor:
    """Rows of `past`, the same for every variant, and then those of `x`; either may be one for all heads."""
    lead = tuple(map(max, past.shape[:-2], x.shape[:-2]))  # each is alike or one
    return torch.cat([part.expand(*lead, *part.shape[-2:]) for part in (past, x)], -2)


@dataclass(frozen=True)
class Executor:
    """The parts of a model with the contexts of one batch."""

    parts: Parts
    every: tuple[Rows, ...]
    answer: tuple[Rows, ...]
    answer_pos: Int[Tensor, "prompt *read"]

    @staticmethod
    def for_run(parts: Parts, run: Capture, answer_pos: Int[Tensor, "prompt *read"]) -> "Executor":
        contexts = [layer.context for layer in run.layers]
        every = tuple(Rows.all(context) for context in contexts)
        return Executor(parts, every, tuple(Rows.answer(c, answer_pos) for c in contexts), answer_pos)

    @property
    def n_layers(self) -> int:
        return len(self.parts.blocks)

    @property
    def n_reads(self) -> int:
        """How many rows of a prompt are read; what has so many rows is at those (`Batch` sees to it)."""
        return reads_of(self.answer_pos)

    # --- one head ----------------------------------------------------------------------------------------

    def project(
        self,
        layer: int,
        port: Port,
        heads: Sequence[int],
        normed: Float[Tensor, "head_or_one variant prompt row d_model"],
        rows: Rows,
    ) -> Float[Tensor, "head variant prompt row d_head"]:
        """q, k or v (norms and rotary embedding included) of some query heads, each from its own input or all
        from one ([1, ...]). Where q and k are normed over all heads at once: of all heads."""
        raw = self.project_raw(layer, port, heads, normed)
        return finish(self.parts.blocks[layer], port, raw, rows, heads)

    def project_raw(
        self,
        layer: int,
        port: Port,
        heads: Sequence[int],
        normed: Float[Tensor, "head_or_one variant prompt row d_model"],
    ) -> Float[Tensor, "head variant prompt row d_head"]:
        """What the projection alone makes, before norms and rotary embedding."""
        block = self.parts.blocks[layer]
        projections = block.projections
        index = _kv_heads(block, port, heads)
        weight, bias = projections.weights[port][index], projections.biases[port]
        flat, weight = normed.flatten(1, -2), weight.transpose(1, 2)
        if bias is None:
            projected = torch.matmul(flat, weight)
        else:
            projected = torch.baddbmm(bias[index][:, None], flat.expand(len(weight), -1, -1), weight)
        return projected.view(-1, *normed.shape[1:-1], projected.shape[-1])

    def head_outputs(
        self,
        layer: int,
        heads: Sequence[int],
        z: Float[Tensor, "head variant prompt row d_head"],
    ) -> Float[Tensor, "head variant prompt row d_model"]:
        """What heads with these z, scale included (`scale_of`), write to the residual stream."""
        block = self.parts.blocks[layer]
        out = torch.matmul(z.flatten(1, -2), block.projections.out[index_of(heads)]).view(*z.shape[:-1], -1)
        return out if (gain := block.post_gain) is None else out * gain

    def raw_change(
        self, layer: int, heads: Sequence[int], z: Float[Tensor, "head *variant prompt row d_head"]
    ) -> Float[Tensor, "*variant prompt row d_model"]:
        """What the output projection makes of a change of some heads' z."""
        weight = self.parts.blocks[layer].projections.out[index_of(heads)]
        flat = z.movedim(0, -2).flatten(-2)
        return linear(flat, weight.reshape(-1, weight.shape[-1]).t())

    def attention_raw(
        self, layer: int, z: Float[Tensor, "head variant prompt row d_head"]
    ) -> Float[Tensor, "variant prompt row d_model"]:
        """What the output projection makes of all heads' z, bias included."""
        return _written(self.parts.blocks[layer], z.movedim(0, -2).flatten(-2))

    def scale_of(
        self, layer: int, z: Float[Tensor, "head variant prompt row d_head"]
    ) -> Float[Tensor, "variant prompt row"] | float | None:
        """What z is multiplied by on the way to the residual stream, given the z of all heads of the layer."""
        block = self.parts.blocks[layer]
        return write_scale(block, self.attention_raw(layer, z) if block.normed_apart else z)

    def attention(self, layer: int, raw: Float[Tensor, "*lead d_model"]) -> Float[Tensor, "*lead d_model"]:
        """What attention adds to the residual stream, given what its output projection made."""
        return self.parts.blocks[layer].added(raw)

    def attention_change(
        self, layer: int, raw: Float[Tensor, "*base d_model"], change: Float[Tensor, "*variant d_model"]
    ) -> Float[Tensor, "*variant d_model"]:
        """What attention adds to the residual stream more when what its output projection made changes."""
        device = self.parts.blocks[layer].device
        raw, change = raw.to(device), change.to(device)
        return self.attention_between(layer, raw, raw + change)

    def attention_between(
        self, layer: int, before: Float[Tensor, "*base d_model"], after: Float[Tensor, "*variant d_model"]
    ) -> Float[Tensor, "*variant d_model"]:
        """What attention adds more once its output projection makes `after` of it."""
        block = self.parts.blocks[layer]
        return block.added(after.to(block.device)) - block.added(before.to(block.device))

    def mlp(self, layer: int, x: Float[Tensor, "*lead row d_model"]) -> Float[Tensor, "*lead row d_model"]:
        """What the MLP writes when it reads `x` (before its norm)."""
        block = self.parts.blocks[layer]
        normed = block.norm2(x)
        with quick_modules(x, x.numel() * x.shape[-1]):
            out = block.mlp(
                normed.reshape(-1, *x.shape[-2:])
            )  # mixtures of experts want exactly these three axes
        out = (out[0] if isinstance(out, tuple) else out).view(x.shape)
        if block.post_mlp is not None:
            out = block.post_mlp(out)
        return out if block.multiplier == 1.0 else out * block.multiplier

    def read_out(self, x: Float[Tensor, "*lead d_model"]) -> Float[Tensor, "*lead d_model"]:
        """Final hidden states of a residual."""
        out: Tensor = self.parts.final_norm(x.to(self.parts.norm_device))
        return out

    def answer_hidden(self, run: Capture) -> Float[Tensor, "prompt *read d_model"]:
        """Final hidden states at the answer of a recorded run."""
        return self.read_out(at_answer(run.final, self.answer_pos)).squeeze(-2)

    # --- the rest of the network -------------------------------------------------------------------------

    def block(
        self, layer: int, x: Float[Tensor, "variant prompt pos d_model"], *, answer_only: bool
    ) -> Float[Tensor, "variant prompt row d_model"]:
        """A whole block, all of its heads reading the same residual."""
        block = self.parts.blocks[layer]
        x = x.to(block.device)
        every = self.every[layer]
        rows = self.answer[layer] if answer_only else every
        normed = block.norm1(x)
        k = finish(block, "k", _all_heads(block, "k", normed), every, head_axis=-3)
        v = _all_heads(block, "v", normed)
        if answer_only:
            normed, x = at_answer(normed, self.answer_pos), at_answer(x, self.answer_pos)
        q = finish(block, "q", _all_heads(block, "q", normed), rows, head_axis=-3)
        if block.kv_group > 1:
            k, v = k.repeat_interleave(block.kv_group, -3), v.repeat_interleave(block.kv_group, -3)
        z = rows.attend_all(q, k, v).transpose(-2, -3)
        mid = x + self.attention(layer, _written(block, z.flatten(-2)))
        return mid + self.mlp(layer, x if block.parallel else mid)

    def rest(
        self, layer: int, x: Float[Tensor, "variant prompt row d_model"]
    ) -> Float[Tensor, "variant prompt *read d_model"]:
        """Final hidden states at the answer when `x` enters block `layer` (all blocks done: the final norm)."""
        for below in range(layer, self.n_layers):
            x = self.block(below, x, answer_only=below == self.n_layers - 1)
        if x.shape[-2] != self.n_reads:
            x = at_answer(x, self.answer_pos)
        return self.read_out(x).squeeze(-2)

    def rest_after_attention(
        self, layer: int, base: Capture, change: Float[Tensor, "variant prompt row d_model"]
    ) -> Float[Tensor, "variant prompt *read d_model"]:
        """As `rest`, when what the attention of `layer` adds to the residual stream is changed from a base run."""

        def rows(x: Tensor) -> Tensor:
            return at_answer(x, self.answer_pos) if change.shape[-2] != x.shape[-2] else x

        if self.parts.blocks[layer].parallel:
            return self.rest(layer + 1, rows(base.after(layer)).to(change.device) + change)
        mid = rows(base.layers[layer].mid) + change
        return self.rest(layer + 1, mid + self.mlp(layer, mid))


def reads_of(answer_pos: Int[Tensor, "prompt *read"]) -> int:
    """How many rows of each prompt are read."""
    return 1 if answer_pos.ndim == 1 else answer_pos.shape[1]


def index_of(heads: Sequence[int]) -> slice | list[int]:
    """A slice where heads follow each other, so that weights stay views."""
    if list(heads) == list(range(heads[0], heads[0] + len(heads))):
        return slice(heads[0], heads[0] + len(heads))
    return list(heads)


def _kv_heads(block: Block, port: Port, heads: Sequence[int]) -> slice | list[int]:
    return index_of(heads) if port == "q" else index_of([head // block.kv_group for head in heads])


def _all_heads(
    block: Block, port: Port, normed: Float[Tensor, "*variant prompt row d_model"]
) -> Float[Tensor, "*variant prompt head row d_head"]:
    weight, bias = block.projections.weights[port], block.projections.biases[port]
    flat = linear(normed, weight.flatten(0, 1), None if bias is None else bias.flatten())
    return flat.view(*normed.shape[:-1], *weight.shape[:2]).transpose(-2, -3)


def _written(block: Block, z: Float[Tensor, "*lead width"]) -> Float[Tensor, "*lead d_model"]:
    """What the output projection makes of all heads' z."""
    with quick_modules(z, z.numel() * z.shape[-1]):
        out: Tensor = block.out(z)
    return out


def finish(
    block: Block, port: Port, raw: Tensor, rows: Rows, heads: Sequence[int] | None = None, head_axis: int = 0
) -> Tensor:
    """q, k or v as attention reads it, from what its projection made: with the family's norm, scale and rotary
    embedding.

    Heads are on axis 0, or on axis -3 of `[..., prompt, head, row, d_head]`. `heads` are the query heads on
    that axis; None: all heads, or all key-value heads, of the layer.
    """
    if port == "v":
        return raw
    norm = block.q_norm if port == "q" else block.k_norm
    if norm is not None:
        raw = _normed(block, port, norm, raw, heads, head_axis)
    if port == "q" and block.q_scale != 1.0:
        raw = raw * block.q_scale
    if rows.rotary is None or block.rotary is None:
        return raw
    width = rows.rotary[0].shape[-1] * (2 if block.family.own_attention else 1)
    part, rest = raw[..., :width], raw[..., width:]
    no_heads = part.narrow(head_axis, 0, 0)  # the function rotates a pair; one is enough
    rotated, _ = block.rotary(part, no_heads, *rows.rotary, unsqueeze_dim=0 if head_axis == 0 else 1)
    return rotated if rest.shape[-1] == 0 else torch.cat([rotated, rest], -1)


def _normed(
    block: Block, port: Port, norm: nn.Module, raw: Tensor, heads: Sequence[int] | None, head_axis: int
) -> Tensor:
    """The norm of q or k: by head with one gain for all or one for each, or over all heads at once.

    Where query heads have keys of their own, the gains of their groups are repeated for them.
    """
    weight: Tensor = norm.weight  # type: ignore[assignment]
    d_head = raw.shape[-1]
    if not block.joint_qk and weight.ndim == 1 and weight.numel() == d_head:
        out: Tensor = norm(raw)
        return out
    gains = block.dense.tensor(norm, "weight").view(-1, d_head)
    if heads is not None and port == "k":
        gains = gains[[head // block.kv_group for head in heads]]
    elif heads is not None:
        gains = gains[list(heads)]
    elif raw.shape[head_axis] != len(gains):
        gains = gains.repeat_interleave(raw.shape[head_axis] // len(gains), 0)
    if block.joint_qk and len(gains) < block.n_kv_heads:
        raise ValueError("a norm over all heads needs all heads")
    x = raw.movedim(head_axis, -2)
    if block.joint_qk:
        joint = functional_call(norm, {"weight": gains.flatten()}, (x.flatten(-2),))
        return joint.unflatten(-1, gains.shape).movedim(-2, head_axis)
    return functional_call(norm, {"weight": gains}, (x,)).movedim(-2, head_axis)
