"""From gradients at what projections make and MLPs read to gradients at every receiver's own input.

    G_r = J^T (g W),  J the Jacobian of the norm that the receiver reads through, at the residual it read

Norms are live, not frozen. Where the norm's formula is known (`pipeline.engine.norms`) the gain is folded into
the weights, and what J takes away, xh mean(g W' xh), is a product of head size: the gradients are written once
and corrected once. Any other norm is left to autograd. Does not know metrics or senders.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.core.graph import Graph
from pipeline.engine.norms import formula_of
from pipeline.models.adapters import Block, Port


@dataclass(frozen=True)
class LayerGradients:
    """What one layer read, and the gradients at what its projections make (before norms and rotary embedding) and
    at what its MLP reads (after the norm). `frozen` says that norms' denominators are constant."""

    resid: Float[Tensor, "prompt pos d_model"]
    mid: Float[Tensor, "prompt pos d_model"]
    ports: dict[Port, Float[Tensor, "prompt head pos d_head"]]
    mlp_in: Float[Tensor, "prompt pos d_model"]
    frozen: bool = False


def add_receiver_gradients(
    out: Float[Tensor, "receiver prompt pos d_model"],
    block: Block,
    graph: Graph,
    layer: LayerGradients,
    rows: slice,
    *,
    fresh: bool,
) -> None:
    """Adds the gradients at the inputs of all receivers of a layer, in receiver order, for some prompts.

    `fresh` says that `out` holds nothing yet and is overwritten.
    """
    start = 0
    projections = block.projections
    for port, gradient in layer.ports.items():
        g, weight = gradient[rows].to(out.dtype), projections.weights[port].to(out.dtype)
        if port != "q" and graph.n_ports == graph.n_heads and block.kv_group > 1:
            weight = weight.repeat_interleave(block.kv_group, 0)
        elif port != "q" and block.kv_group > 1:
            g = g.unflatten(1, (graph.n_ports, block.kv_group)).sum(2)
        stop = start + g.shape[1]
        x, g = layer.resid[rows], g.transpose(0, 1)
        _add(out[start:stop], block.norm1, x, g, weight, fresh=fresh, frozen=layer.frozen)
        start = stop
    x, g = layer.mid[rows], layer.mlp_in[rows].to(out.dtype)[None]
    _add(out[start:], block.norm2, x, g, None, fresh=fresh, frozen=layer.frozen)


def _add(
    out: Float[Tensor, "receiver prompt pos d_model"],
    norm: nn.Module,
    x: Float[Tensor, "prompt pos d_model"],
    gradient: Float[Tensor, "receiver prompt pos width"],
    weight: Float[Tensor, "receiver width d_model"] | None,
    *,
    fresh: bool,
    frozen: bool,
) -> None:
    """Adds gradients at `x`, through a norm that the receivers read it through; without weights, at the norm."""
    formula = None if isinstance(norm, nn.Identity) else formula_of(norm)
    if formula is None:
        found = gradient if weight is None else torch.einsum("rbtw,rwd->rbtd", gradient, weight)
        if not isinstance(norm, nn.Identity):
            found = _through(norm, x, found)
        out.copy_(found) if fresh else out.add_(found)
        return
    normed, rstd = formula.normalised(x)
    normed, gradient = normed.to(out.dtype), gradient * rstd.to(out.dtype)[..., None]
    if weight is None:
        change = gradient * formula.gain.to(out.dtype)
        if formula.centred:
            change = change - change.mean(-1, keepdim=True)
        along = (change * normed).mean(-1)
        out.copy_(change) if fresh else out.add_(change)
    else:
        folded = formula.folded(weight).to(out.dtype)
        flat, wide = gradient.flatten(1, 2), out.flatten(1, 2)
        if fresh:
            torch.bmm(flat, folded, out=wide)
        else:
            wide.baddbmm_(flat, folded)
        read = torch.einsum(
            "btd,rwd->rbtw", normed, folded
        )  # what the projections made, but for their biases
        along = (gradient * read).sum(-1) / x.shape[-1]
    if not frozen:
        out.addcmul_(along[..., None], normed[None], value=-1)


def _through(
    norm: nn.Module,
    x: Float[Tensor, "prompt pos d_model"],
    gradient: Float[Tensor, "receiver prompt pos d_model"],
) -> Float[Tensor, "receiver prompt pos d_model"]:
    backward = torch.func.vjp(norm, x)[1]
    found = torch.vmap(lambda g: backward(g)[0])(gradient.to(x.dtype))
    return found.to(gradient.dtype)
