"""Path patching of all edges against a stock forward for each, 2 prompts of 10 tokens.

Times two of the twelve heads of every layer and every MLP, and counts the heads six times: all 32,491 edges take
minutes. The stock forward is that of an untouched model.
"""

from typing import Any

import torch

from pipeline.ablations import ablate
from pipeline.engine.patchable import PatchableModel
from pipeline.engine.paths import Patcher
from pipeline.metrics import get_metric
from tests.benchmarks.measure import cpu_seconds, row
from tests.benchmarks.models import ioi_like

HEADS = (3, 8)


def path_rows(model: PatchableModel, stock: Any, weights: str) -> list[dict[str, Any]]:
    """How many times faster than one stock forward per edge."""
    batch = model.batch_from_ids(**ioi_like(2))
    with torch.no_grad():
        forward = cpu_seconds(lambda: stock(input_ids=batch.clean, use_cache=False), 7)
    rows, graph = [], model.graph
    for metric in ("logit_diff", "kl_divergence"):
        ablated = ablate(model, batch, "corrupted")
        objective = model.objective(get_metric(metric), batch, ablated.clean_hidden)
        seconds = _seconds(Patcher.of(model.parts, graph, ablated, objective))
        note = f"{seconds:.0f} s for {graph.n_edges:,} edges, from a sample; {weights}"
        ratio = forward * graph.n_edges / seconds
        rows.append(row(f"edge_patching {metric}, B2 T10", ratio, "x faster", "edges x stock forward", note))
    return rows


def _seconds(patcher: Patcher) -> float:
    """CPU seconds for all edges, from two heads of every layer."""
    graph = patcher.graph
    seconds = cpu_seconds(patcher.logits_edges, 1)
    for layer in range(graph.n_layers):
        some = [graph.head_receiver(layer, port, head) for port in ("q", "k", "v") for head in HEADS]
        heads = cpu_seconds(lambda layer=layer, some=some: patcher.head_edges(layer, some), 1)
        seconds += heads * graph.n_heads / len(HEADS)
        seconds += cpu_seconds(lambda layer=layer: patcher.mlp_edges(layer), 1)
    return seconds
