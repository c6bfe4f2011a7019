"""Runs of the stock model that are read, and edited, at named sites: what a lens, a knockout, causal tracing, function
vectors and learned masks stand on.

    found = run(model, batch, [Knockout(3, None, queries, keys), Add(Site("residual", 5), vector)], [Site("logits")])
    found[Site("logits")]

The model's own modules compute, with softmax attention in plain sight; edits are made where a site's value is made, in
the order given, and everything downstream reads what they leave. Sites are read after they were edited. Hooks and the
attention name, which is global state on the model's config, live in a context manager. Knows blocks and hooks; does not
know methods, spans or prompts. The fast paths of patching and ACDC are their own (`incremental`, `paths`).
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from pipeline.core.errors import CircuitsError
from pipeline.core.wiring import wire
from pipeline.engine.attending import EDITED, EDITOR, Editor, Knockout, edited_attention, heads_first
from pipeline.engine.batch import Batch
from pipeline.engine.capture import scaled, write_scale
from pipeline.engine.circuit_run import run_circuits
from pipeline.engine.emptied import Emptied
from pipeline.engine.patchable import PatchableModel
from pipeline.engine.recording import run_base
from pipeline.engine.senders import at_answer
from pipeline.models.adapters import Block

__all__ = ["Add", "Edit", "Knockout", "Mask", "Replace", "Site", "decode", "logits_of", "run"]

Kind = Literal["residual", "attention", "mlp", "z", "heads", "pattern", "normed", "logits"]
LAYERED = ("residual", "attention", "mlp", "z", "heads", "pattern")
EDITABLE = ("residual", "attention", "mlp", "z")


@dataclass(frozen=True)
class Site:
    """A place in a run, and what is there. Prompts are rows of the batch, positions its padded columns.

    - `residual` [prompt, pos, d_model]: the residual stream that enters block `layer`; the number of layers: the one
      that leaves the last block, in front of the final norm
    - `attention`, `mlp` [prompt, pos, d_model]: what they add to the residual stream
    - `z` [prompt, pos, head, d_head]: what heads pass to the output projection
    - `heads` [prompt, pos, head, d_model]: what each head writes; read only. Biases belong to none, and where a norm
      follows attention it is in front of that norm unless the model was loaded with `post_norm="own"`
    - `pattern` [prompt, head, query, key]: attention after softmax; read only
    - `normed` [prompt, pos, d_model]: behind the final norm; read only
    - `logits` [prompt, vocab]: at the answer; read only
    """

    kind: Kind
    layer: int | None = None

    def __post_init__(self) -> None:
        if (self.kind in LAYERED) != (self.layer is not None):
            raise CircuitsError(f"{self.kind} {'needs a' if self.layer is None else 'has no'} layer")


@dataclass(frozen=True, eq=False)
class Add:
    """Adds a vector, or what broadcasts to the site's shape, at the chosen positions (None: all)."""

    site: Site
    vector: Float[Tensor, "..."]
    at: Bool[Tensor, "prompt pos"] | None = None


@dataclass(frozen=True, eq=False)
class Replace:
    """Puts a value, or what broadcasts to the site's shape, at the chosen positions (None: all). Of `z` with a `head`
    the value is of that head alone, [prompt, pos, d_head] or what broadcasts to it."""

    site: Site
    value: Float[Tensor, "..."]
    at: Bool[Tensor, "prompt pos"] | None = None
    head: int | None = None


@dataclass(frozen=True, eq=False)
class Mask:
    """What every edge is worth: the edge carries that share of its current value and the rest of its ablated one
    (`circuit_run`). Gradients reach edges of weights other than 0, with `every` all edges. Stands alone, and leaves
    `normed` and `logits` to read, both at the answer. `emptied` says what is ablated, and of which batch."""

    weights: Float[Tensor, " edge"]
    emptied: Emptied
    every: bool = False


Edit = Knockout | Add | Replace | Mask


def run(
    model: PatchableModel,
    batch: Batch,
    edits: Sequence[Edit] = (),
    read: Sequence[Site] = (Site("logits"),),
    *,
    which: Literal["clean", "corrupted"] = "clean",
    grad: bool = False,
) -> dict[Site, Tensor]:
    """What was read, by site, in one forward of one side of the batch.

    With `grad` the results carry gradients to whatever an edit was given that requires them (an `Add` of zeros is a
    place to take a gradient at). Raises CircuitsError for a site that is not there, or not to be edited.
    """
    masks = [edit for edit in edits if isinstance(edit, Mask)]
    with torch.set_grad_enabled(grad):
        if masks:
            return _masked(model, masks[0], edits, read)
        for edit in edits:
            _check(model, edit)
        for site in read:
            _check_layer(model, site)
        model.check_unchanged()
        model.counters.forward_passes += batch.n_prompts
        with _edited(model, batch, edits, read) as found:
            hidden = run_base(model.hf, model.parts, getattr(batch, which), batch)
        for site in read:
            if site.kind == "normed":
                found[site] = hidden
            elif site.kind == "logits":
                found[site] = logits_of(model, at_answer(hidden, batch.answer_pos).squeeze(-2))
    return found


def decode(model: PatchableModel, residual: Float[Tensor, "*lead d_model"]) -> Float[Tensor, "*lead vocab"]:
    """Logits of a residual stream, through the final norm and the unembedding (a logit lens)."""
    parts = model.parts
    return logits_of(model, parts.final_norm(residual.to(parts.norm_device)))


def logits_of(model: PatchableModel, hidden: Float[Tensor, "*lead d_model"]) -> Float[Tensor, "*lead vocab"]:
    """Logits of states behind the final norm."""
    return model.unembedding.logits(hidden.to(model.parts.device))


def _masked(
    model: PatchableModel, mask: Mask, edits: Sequence[Edit], read: Sequence[Site]
) -> dict[Site, Tensor]:
    if len(edits) > 1 or any(site.kind not in ("normed", "logits") for site in read):
        raise CircuitsError(
            "a Mask stands alone among edits, and leaves normed and logits to read, at the answer"
        )
    kept = mask.weights.detach().cpu().numpy() != 0
    if mask.every:
        kept[:] = True
    wirings = wire(model.graph, model.coupled, kept[None], mute=False)
    hidden = run_circuits(mask.emptied, wirings, mask.weights[None])[0]
    model.counters.evaluations += len(hidden)
    return {site: hidden if site.kind == "normed" else logits_of(model, hidden) for site in read}


def _check(model: PatchableModel, edit: Edit) -> None:
    graph = model.graph
    if isinstance(edit, Add | Replace):
        _check_layer(model, edit.site)
        if edit.site.kind not in EDITABLE:
            raise CircuitsError(
                f"{edit.site.kind} can be read and not edited; edit one of {', '.join(EDITABLE)}"
            )
        heads: tuple[int, ...] = ()
        if isinstance(edit, Replace) and edit.head is not None:
            heads = (edit.head,)
        if heads and edit.site.kind != "z":
            raise CircuitsError(f"{edit.site.kind} has no heads: replace z of a head")
    elif isinstance(edit, Knockout):
        _check_layer(model, Site("pattern", edit.layer))
        heads = edit.heads or ()
    else:
        return
    if wrong := [head for head in heads if not 0 <= head < graph.n_heads]:
        raise CircuitsError(f"no head {wrong[0]}: layers have heads 0 to {graph.n_heads - 1}")


def _check_layer(model: PatchableModel, site: Site) -> None:
    last = model.graph.n_layers - (site.kind != "residual")
    if site.layer is not None and not 0 <= site.layer <= last:
        raise CircuitsError(f"no {site.kind} of layer {site.layer}: there are 0 to {last}")


Change = Callable[[Tensor], Tensor]


@contextmanager
def _edited(
    model: PatchableModel, batch: Batch, edits: Sequence[Edit], read: Sequence[Site]
) -> Iterator[dict[Site, Tensor]]:
    """While open, every forward makes these edits and fills what is read."""
    parts, shape = model.parts, batch.clean.shape
    changes: dict[Site, list[Change]] = defaultdict(list)
    cuts: dict[int, list[Knockout]] = defaultdict(list)
    for edit in edits:
        if isinstance(edit, Knockout):
            cuts[edit.layer].append(edit)
        elif isinstance(edit, Add | Replace):
            changes[edit.site].append(partial(_changed, edit))
    found: dict[Site, Tensor] = {}

    def pass_through(site: Site, x: Tensor) -> Tensor:
        """The site's value, edited and, where it is wanted, kept."""
        for change in changes[site]:
            x = change(x)
        if site in read:
            found[site] = x
        return x

    handles: list[Any] = []
    before = model.hf.config._attn_implementation  # noqa: SLF001 - the documented setter validates against the hub
    try:
        model.hf.config._attn_implementation = EDITED  # noqa: SLF001
        for block in parts.blocks:
            site = Site("pattern", block.layer)
            keep = partial(found.__setitem__, site) if site in read else None
            setattr(block.attn, EDITOR, Editor(tuple(cuts[block.layer]), keep))
            if block.family.own_attention:
                block.attn._attn = partial(heads_first(edited_attention), block.attn)  # type: ignore[assignment]  # noqa: SLF001
            handles += _hooks(block, pass_through, found, read, shape)
        last = Site("residual", len(parts.blocks))
        handles.append(
            parts.final_norm.register_forward_pre_hook(lambda _module, args: (pass_through(last, args[0]),))
        )
        yield found
    finally:
        for handle in handles:
            handle.remove()
        for block in parts.blocks:
            for name in (EDITOR, "_attn"):
                block.attn.__dict__.pop(name, None)
        model.hf.config._attn_implementation = before  # noqa: SLF001


def _changed(edit: Add | Replace, x: Tensor) -> Tensor:
    """A site's value after one edit."""
    if isinstance(edit, Add):
        new = x + edit.vector.to(x.device, x.dtype)
    elif edit.head is None:
        new = edit.value.to(x.device, x.dtype).expand_as(x)
    else:
        value = edit.value.to(x.device, x.dtype).expand(*x.shape[:2], x.shape[-1])
        at_head = torch.arange(x.shape[2], device=x.device) == edit.head
        new = torch.where(at_head[:, None], value.unsqueeze(2), x)
    if edit.at is None:
        return new
    at = edit.at.to(x.device).view(*edit.at.shape, *[1] * (x.ndim - 2))
    return torch.where(at, new, x)


def _hooks(
    block: Block,
    pass_through: Callable[[Site, Tensor], Tensor],
    found: dict[Site, Tensor],
    read: Sequence[Site],
    shape: torch.Size,
) -> list[Any]:
    """Hooks through which the values of a block's sites pass."""
    layer, factor = block.layer, block.multiplier
    z_of: dict[str, Tensor] = {}

    def enter(_module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        x = pass_through(Site("residual", layer), args[0] if args else kwargs["hidden_states"])
        return ((x, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": x})

    def out_input(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        flat: Tensor = args[0]
        z = pass_through(Site("z", layer), flat.reshape(*shape, block.n_heads, -1))
        z_of["z"] = z
        return (z.reshape(flat.shape), *args[1:])

    def out_output(_module: nn.Module, _args: Any, output: Tensor) -> None:
        site = Site("heads", layer)
        if site in read:
            z = scaled(z_of["z"], write_scale(block, output.reshape(*shape, -1)))
            heads = torch.einsum("bthw,hwd->bthd", z, block.projections.out)
            found[site] = heads if (gain := block.post_gain) is None else heads * gain

    def written(kind: Kind) -> Callable[..., Any]:
        def leave(_module: nn.Module, _args: Any, output: Any) -> Any:
            x = output[0] if isinstance(output, tuple) else output
            y = x.reshape(*shape, -1)
            y = pass_through(Site(kind, layer), y if factor == 1.0 else y * factor)
            y = (y if factor == 1.0 else y / factor).reshape(x.shape)
            return (y, *output[1:]) if isinstance(output, tuple) else y

        return leave

    return [
        block.module.register_forward_pre_hook(enter, with_kwargs=True),
        block.out.register_forward_pre_hook(out_input),
        block.out.register_forward_hook(out_output),
        (block.post_attn or block.out).register_forward_hook(written("attention")),
        (block.post_mlp or block.mlp_out).register_forward_hook(written("mlp")),
    ]
