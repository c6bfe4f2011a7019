"""Ten circuits of MIB's sizes on one batch against a stock forward of that batch, recorded runs included; and a
gradient in the weights of all edges.

Circuits are the strongest edges by eap. Times are taken in turns: on a busy machine both meet the same neighbours.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from pipeline.ablations import record
from pipeline.core.wiring import wire
from pipeline.engine.batch import Batch
from pipeline.engine.circuit_run import run_circuits
from pipeline.engine.emptied import Emptied
from pipeline.engine.patchable import PatchableModel, load_model, patchable
from pipeline.evaluation import circuit_values, selections
from pipeline.methods import Eap
from pipeline.metrics import get_metric
from tests.benchmarks.acdc import shared
from tests.benchmarks.measure import cpu_seconds, row
from tests.benchmarks.models import gpt2_small_random, ioi_like

SIZES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
TURNS = 7


def circuit_rows(model: PatchableModel, stock: Any, weights: str) -> list[dict[str, Any]]:
    """The GPT-2 shape, trained and random, and the narrow model from which it was embedded, where that is at hand."""
    rows = [*_rows(model, stock, weights), *_gradient_rows(model, stock, weights)]
    rows += _rows(patchable(gpt2_small_random()), gpt2_small_random(), "random weights")
    narrow = shared("models/bench-12l-d192")
    if Path(narrow).is_dir():
        rows += _rows(load_model(narrow), AutoModelForCausalLM.from_pretrained(narrow).eval(), "d 192")
    return rows


def _rows(model: PatchableModel, stock: Any, note: str) -> list[dict[str, Any]]:
    rows = []
    for n_prompts in (8, 32):
        batch = model.batch_from_ids(**ioi_like(n_prompts))
        masks = _masks(model, batch)
        ours, forward = _in_turns(
            lambda batch=batch, masks=masks: circuit_values(model, [batch], masks),
            lambda batch=batch: _forward(stock, batch),
        )
        what = f"ten circuits of MIB's sizes, B{n_prompts} T{batch.length}"
        rows.append(row(what, ours / forward, "x", "one stock forward, recorded runs included", note))
    return rows


def _gradient_rows(model: PatchableModel, stock: Any, note: str) -> list[dict[str, Any]]:
    """The metric of one circuit and its gradient in the weights of all edges, without the recorded runs."""
    batch = model.batch_from_ids(**ioi_like(8))
    runs = record(model, batch, "corrupted")
    executor = model.executor(runs.clean, runs.answer_pos)
    emptied = Emptied.of(model.parts, model.graph, executor, runs.clean, runs.values)
    objective = model.objective(get_metric("logit_diff"), batch)
    every = wire(model.graph, model.coupled, np.ones((1, model.graph.n_edges), dtype=bool), mute=True)
    shares = torch.full((1, model.graph.n_edges), 0.5).requires_grad_()

    def step() -> None:
        torch.autograd.grad(objective(run_circuits(emptied, every, shares)).sum(), shares)

    ours, forward = _in_turns(step, lambda: _forward(stock, batch))
    return [
        row("gradient in the weights of all edges, B8 T10", ours / forward, "x", "one stock forward", note)
    ]


def _masks(model: PatchableModel, batch: Batch) -> np.ndarray:
    return np.stack([circuit.mask for _, circuit in selections(SIZES, Eap().score(model, [batch]))])


@torch.no_grad()
def _forward(stock: Any, batch: Batch) -> None:
    stock(input_ids=batch.clean, use_cache=False)


def _in_turns(ours: Callable[[], Any], theirs: Callable[[], Any]) -> tuple[float, float]:
    """The best CPU seconds of both."""
    pairs = [(cpu_seconds(ours, 1), cpu_seconds(theirs, 2)) for _ in range(TURNS)]
    first, second = zip(*pairs, strict=True)
    return min(first), min(second)
