"""The check at load: the engine's recomputation must give the stock model's logits, or the model is refused.

Turns every unknown variant of an architecture into one clear error instead of wrong circuits. The check runs
two random prompts, one of them left-padded, with every edge kept but those from `input`, which are set to
another prompt's: all nodes are then recomputed from new inputs, and the answer is known from a stock run of
the other prompt, alone and without padding. And what a recorded run reads must be the sum of what was written, which
logits alone cannot tell: the final norm hides a factor.

Where the config says that the model changes beyond some length, the check is run a second time across it, with as
few tokens: one prompt sits at positions beyond the limit of the rotary embedding and the other below, in one batch;
and a window, which counts tokens and not positions, is narrowed while both models run, since masks are made from
the config in every forward pass. A window that a model takes from elsewhere would not be seen here.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pipeline.core.errors import ModelError
from pipeline.core.wiring import wire
from pipeline.engine.attribution import is_out_of_memory
from pipeline.engine.batch import from_ids
from pipeline.engine.capture import Capture
from pipeline.engine.circuit_run import run_circuits
from pipeline.engine.emptied import Emptied, attention_added, written_by_none
from pipeline.engine.patchable import PatchableModel
from pipeline.engine.senders import SenderValues
from pipeline.models.dense import device_of
from pipeline.models.load import dtype_name
from pipeline.models.text_limits import rope_limit

# Relative to the largest logit; float64 is limited by norms and softmax that models compute in float32.
_TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 1e-2}
_MANY_LAYERS = 8  # up to so many those in 16 bits hold; of more they grow
_LENGTH = 8
_WINDOW = 3


@dataclass(frozen=True)
class Expected:
    """Two pairs of random prompts (`ids` [side, prompt, pos], `real` [prompt, pos]), the stock logits at the end of
    the corrupted ones, and the largest stock logit of all. `positions` are other ones than those counted from the
    first token, `window` is another one than the config's."""

    ids: Int[Tensor, "side prompt pos"]
    real: Bool[Tensor, "prompt pos"]
    logits: Float[Tensor, "prompt vocab"]
    scale: float
    positions: Int[Tensor, "prompt pos"] | None = None
    window: int | None = None


@torch.no_grad()
def stock_logits(hf: Any, seed: int = 0) -> tuple[Expected, ...]:
    """What the stock model says of the check's prompts, each alone and without padding: padding must not matter.

    A second time where the model changes with the length of a prompt. ModelError where a kernel of the model knows
    no such numbers.
    """
    config = hf.config
    length = min(_LENGTH, getattr(config, "max_position_embeddings", _LENGTH))
    ids = torch.randint(0, config.vocab_size, (2, 2, length), generator=torch.Generator().manual_seed(seed))
    real = torch.ones(2, length, dtype=torch.bool)
    real[1, : length // 3] = False
    plain = _expected(hf, ids, real)
    limit, window = rope_limit(config), getattr(config, "sliding_window", None)
    if limit is None and window is None:
        return (plain,)
    window = None if window is None else min(window, _WINDOW)
    if limit is None:
        return plain, _expected(hf, ids, real, window=window)
    real = real.clone()
    real[1, : max(0, length - limit)] = False  # stays below
    positions = (real.long().cumsum(1) - 1).clamp(min=0)
    positions[0] += max(0, limit + 1 - length)
    return plain, _expected(hf, ids, real, positions, window)


def _expected(
    hf: Any, ids: Tensor, real: Tensor, positions: Tensor | None = None, window: int | None = None
) -> Expected:
    device = device_of(hf.get_input_embeddings())

    def run(side: int, row: int) -> Tensor:
        at = None if positions is None else positions[row, real[row]][None].to(device)
        out = hf(input_ids=ids[side, row, real[row]][None].to(device), position_ids=at, use_cache=False)
        logits: Tensor = out.logits[0].double().cpu()
        return logits

    with _windowed(hf, window), _kernels_named(hf, device):
        short, long = ([run(side, row) for side in (0, 1)] for row in (1, 0))  # some remember longer ones
    # The largest of all positions and prompts: at one position all logits can cancel to nothing.
    scale = max(float(logits.abs().max()) for logits in (*short, *long))
    return Expected(ids, real, torch.stack([long[1][-1], short[1][-1]]), max(scale, 1e-12), positions, window)


@contextmanager
def _kernels_named(hf: Any, device: torch.device) -> Iterator[None]:
    """While open, what a kernel says of numbers or a device that it does not know is one line with the mend."""
    try:
        yield
    except (RuntimeError, NotImplementedError, ImportError) as error:
        if isinstance(error, RuntimeError) and is_out_of_memory(error):
            raise
        raise ModelError(
            f"{hf.config.model_type} model does not run in {dtype_name(hf)} on {device} "
            f"({str(error).strip().splitlines()[0][:200]}); load it in float32, or with attn_implementation and "
            "experts_implementation: eager in its config.json"
        ) from None


@contextmanager
def _windowed(hf: Any, window: int | None) -> Iterator[None]:
    """While open, the model's windows are of that size; None leaves them."""
    if window is None:
        yield
        return
    before = hf.config.sliding_window
    try:
        hf.config.sliding_window = window
        yield
    finally:
        hf.config.sliding_window = before


@torch.no_grad()
def relative_error(model: PatchableModel, expected: Sequence[Expected] | None = None) -> float:
    """Largest difference between recomputed and stock logits at the answer, over the largest stock logit; or between
    what is read in a recorded run and the sum of what was written, over the largest number read, if that is more."""
    return max(_error(model, case) for case in expected or stock_logits(model.hf))


def _error(model: PatchableModel, expected: Expected) -> float:
    answers = torch.zeros(2, dtype=torch.long)
    clean, corrupted = expected.ids
    batch = from_ids(clean, corrupted, answers, attention_mask=expected.real, device=model.device)
    if expected.positions is not None:
        batch = replace(batch, position_ids=expected.positions.to(model.device))
    with _windowed(model.hf, expected.window):
        run, other = model.capture(batch, "clean"), model.capture(batch, "corrupted")
    kept = np.asarray(model.graph.edge_senders != 0)
    executor = model.executor(run, batch.answer_pos)
    emptied = Emptied.of(model.parts, model.graph, executor, run, SenderValues.of(other))
    hidden = run_circuits(emptied, wire(model.graph, model.coupled, kept[None], mute=False))[0]
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
        heads = written[graph.head_sender(block.layer) : graph.mlp_sender(block.layer)].sum(0)
        x = x + (attention_added(block, heads) if block.mixed else heads)
        if (bias := written_by_none(run, block)) is not None:
            x = x + bias.to(x.device)
        if not block.parallel:
            compare(record.mid)
        x = x + written[graph.mlp_sender(block.layer)]
    compare(run.final)
    return max(errors) / largest


def tries(hf: Any) -> range:
    """Seeds of the prompts on which a model may pass the check: one, but for mixtures of experts in 16 bits. There the
    rounding of a router's input can choose another expert for a token, which is no small difference and no fault; what
    is computed wrongly differs on all prompts."""
    experts = getattr(hf.config, "num_local_experts", None) or getattr(hf.config, "num_experts", None)
    return range(4 if experts and hf.dtype in (torch.bfloat16, torch.float16) else 1)


def tolerance(dtype: torch.dtype, n_layers: int) -> float:
    """How far recomputed and stock numbers may be apart, as a share of the largest. Every layer rounds the sum that it
    adds to, which in 16 bits is all that is seen, and grows as a random walk does: measured at 4, 16 and 64 layers
    .008, .014 and .03 in bfloat16, with the root of their number."""
    deeper = max(1.0, n_layers / _MANY_LAYERS) ** 0.5
    return _TOLERANCE[dtype] * (deeper if dtype in (torch.bfloat16, torch.float16) else 1.0)


def check_model(model: PatchableModel, expected: Iterable[Sequence[Expected]]) -> None:
    """Raises ModelError when what is recomputed differs from the stock run by more than the dtype allows, on each of
    the sets of prompts."""
    allowed = tolerance(model.hf.dtype, model.graph.n_layers)
    errors = []
    for cases in expected:
        errors.append(relative_error(model, cases))
        if errors[-1] <= allowed:
            return
    error = min(errors)
    if not error <= allowed:
        raise ModelError(
            f"{model.config.model_type} model fails the self-check: recomputed logits or sums differ from those of the "
            f"stock run by {error:.1e} (allowed {allowed:.0e} in {dtype_name(model.hf)}); this variant is not supported"
        )
