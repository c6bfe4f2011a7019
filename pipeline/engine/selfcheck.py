"""The check at load: the engine's recomputation must give the stock model's logits, or the model is refused.

Turns every unknown variant of an architecture into one clear error instead of wrong circuits. The check runs
two random prompts, one of them left-padded, with every edge kept but those from `input`, which are set to
another prompt's: all nodes are then recomputed from new inputs, and the answer is known from a stock run of
the other prompt, alone and without padding. And what a recorded run reads must be the sum of what was written, which
logits alone cannot tell: the final norm hides a factor.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pipeline.core.errors import ModelError
from pipeline.engine.batch import from_ids
from pipeline.engine.capture import Capture
from pipeline.engine.circuit_run import run_circuit, written_by_none
from pipeline.engine.patchable import PatchableModel
from pipeline.engine.senders import SenderValues
from pipeline.models.dense import device_of

# Relative to the largest logit; float64 is limited by norms and softmax that models compute in float32.
_TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 1e-2}
_LENGTH = 8


@dataclass(frozen=True)
class Expected:
    """Two pairs of random prompts (`ids` [side, prompt, pos], `real` [prompt, pos]), the stock logits at the end of
    the corrupted ones, and the largest stock logit of all."""

    ids: Int[Tensor, "side prompt pos"]
    real: Bool[Tensor, "prompt pos"]
    logits: Float[Tensor, "prompt vocab"]
    scale: float


@torch.no_grad()
def stock_logits(hf: Any, seed: int = 0) -> Expected:
    """What the stock model says of the check's prompts, each alone and without padding: padding must not matter."""
    config = hf.config
    length = min(_LENGTH, getattr(config, "max_position_embeddings", _LENGTH))
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, config.vocab_size, (2, 2, length), generator=generator)
    real = torch.ones(2, length, dtype=torch.bool)
    real[1, : length // 3] = False
    device = device_of(hf.get_input_embeddings())
    found = [
        hf(input_ids=ids[side, row, real[row]][None].to(device), use_cache=False).logits[0].double().cpu()
        for side in (0, 1)
        for row in (0, 1)
    ]
    # The largest of all positions and prompts: at one position all logits can cancel to nothing.
    scale = max(float(logits.abs().max()) for logits in found)
    return Expected(ids, real, torch.stack([found[2][-1], found[3][-1]]), max(scale, 1e-12))


@torch.no_grad()
def relative_error(model: PatchableModel, expected: Expected | None = None) -> float:
    """Largest difference between recomputed and stock logits at the answer, over the largest stock logit; or between
    what is read in a recorded run and the sum of what was written, over the largest number read, if that is more."""
    expected = expected or stock_logits(model.hf)
    answers = torch.zeros(2, dtype=torch.long)
    clean, corrupted = expected.ids
    batch = from_ids(clean, corrupted, answers, attention_mask=expected.real, device=model.device)
    run, other = model.capture(batch, "clean"), model.capture(batch, "corrupted")
    kept = model.graph.edge_senders != 0
    executor = model.executor(run, batch.answer_pos)
    hidden = run_circuit(model.parts, model.graph, executor, run, SenderValues.of(other), np.asarray(kept))
    found = model.unembedding.logits(hidden.to(model.unembedding.weight.device)).double().cpu()
    logits = float((found - expected.logits).abs().max() / expected.scale)
    return max(logits, *(_residual_error(model, captured, batch.real) for captured in (run, other)))


def _residual_error(model: PatchableModel, run: Capture, real: Bool[Tensor, "prompt pos"]) -> float:
    graph, written = model.graph, SenderValues.of(run).wide().written(model.parts)
    x, errors, largest = written[0], [0.0], 1e-12

    def compare(read: Tensor) -> None:
        nonlocal largest
        at = real.to(read.device)
        errors.append(float((x.to(read.device) - read)[at].abs().max()))
        largest = max(largest, float(read[at].abs().max()))

    for block, record in zip(model.parts.blocks, run.layers, strict=True):
        compare(record.resid)
        heads = written[graph.head_sender(block.layer) : graph.mlp_sender(block.layer)]
        x = x + heads.sum(0)
        if (bias := written_by_none(run, block)) is not None:
            x = x + bias.to(x.device)
        if not block.parallel:
            compare(record.mid)
        x = x + written[graph.mlp_sender(block.layer)]
    compare(run.final)
    return max(errors) / largest


def check_model(model: PatchableModel, expected: Expected) -> None:
    """Raises ModelError when what is recomputed differs from the stock run by more than the dtype allows."""
    error = relative_error(model, expected)
    allowed = _TOLERANCE[model.hf.dtype]
    if not error <= allowed:
        raise ModelError(
            f"{model.config.model_type} model fails the self-check: recomputed logits or sums differ from those of the "
            f"stock run by {error:.1e} (allowed {allowed:.0e}); this variant is not supported"
        )
