"""EAP and EAP-IG by plain autograd through the dense network, one gradient per receiver input. An oracle.

    score[s -> r] = sum over positions of (ablated_s - clean_s) . mean over points of d harm / d x_r

(behind a norm that readers take of what they mix: what r meets more when s alone is ablated, `Dense.changes`)
with harm the metric turned so that more is worse, so positive means that the edge helps. The points lie
between the corrupted and the clean embeddings; the other activations are recomputed on the clean tokens.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from tests.oracles.dense import Dense


def receiver_gradients(
    dense: Dense, ids: Tensor, mask: Tensor | None, embeddings: Tensor, harm: Callable[[Tensor], Tensor]
) -> Tensor:
    """Gradient of the summed per-prompt harm at every receiver's input, [receivers, b, T, d]."""
    shape = (dense.graph.n_receivers, *ids.shape, dense.d_model)
    added = torch.zeros(shape, dtype=dense.weights_dtype, requires_grad=True)
    logits = dense.forward(ids, mask, embeddings=embeddings, added=added).logits
    (gradient,) = torch.autograd.grad(harm(logits).sum(), added)
    return gradient


def edge_scores(dense: Dense, delta: Tensor, gradient: Tensor) -> np.ndarray:
    """Per-prompt scores [b, edges] of sender differences and receiver gradients."""
    table = torch.einsum("sbtd,rbtd->brs", delta, gradient).numpy()
    return table[:, dense.graph.edge_receivers, dense.graph.edge_senders]


def eap(
    dense: Dense, clean: Tensor, mask: Tensor | None, ablated: Tensor, harm: Callable[[Tensor], Tensor]
) -> np.ndarray:
    """Scores [b, edges] with the gradient of the clean run. `harm` takes logits [b, T, V], gives [b]."""
    run = dense.forward(clean, mask)
    gradient = receiver_gradients(dense, clean, mask, dense.embed(clean, mask), harm)
    return edge_scores(dense, dense.changes(run.outputs, ablated), gradient)


def points(steps: int, rule: str) -> list[float]:
    """Where the path is read; 0 is corrupted and 1 clean."""
    return {
        "left": [k / steps for k in range(steps)],
        "right": [(k + 1) / steps for k in range(steps)],
        "midpoint": [(k + 0.5) / steps for k in range(steps)],
    }[rule]


def eap_ig(
    dense: Dense,
    clean: Tensor,
    corrupted: Tensor,
    mask: Tensor | None,
    ablated: Tensor,
    harm: Callable[[Tensor], Tensor],
    steps: int,
    rule: str,
) -> np.ndarray:
    """Scores [b, edges], the gradient averaged along the straight path between the embeddings."""
    run = dense.forward(clean, mask)
    start, end = dense.embed(corrupted, mask), dense.embed(clean, mask)
    gradients = [
        receiver_gradients(dense, clean, mask, start + alpha * (end - start), harm)
        for alpha in points(steps, rule)
    ]
    return edge_scores(dense, dense.changes(run.outputs, ablated), torch.stack(gradients).mean(0))
