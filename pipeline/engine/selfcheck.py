"""The check at load: the engine's recomputation must give the stock model's logits, or the model is refused.

Turns every unknown variant of an architecture into one clear error instead of wrong circuits. The check runs
two random prompts, one of them left-padded, with every edge kept but those from `input`, which are set to
another prompt's: all nodes are then recomputed from new inputs, and the answer is known from a stock run of
the other prompt, alone and without padding.
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.core.errors import ModelError
from pipeline.engine.batch import from_ids
from pipeline.engine.circuit_run import run_circuit
from pipeline.engine.patchable import PatchableModel
from pipeline.engine.senders import SenderValues

# Relative to the largest logit; float64 is limited by norms and softmax that models compute in float32.
_TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 1e-2}
_LENGTH = 8


@torch.no_grad()
def relative_error(model: PatchableModel, seed: int = 0) -> float:
    """Largest difference between recomputed and stock logits at the answer, over the largest stock logit.

    The largest of all positions and prompts: at one position all logits can cancel to nothing.
    """
    config = model.config
    length = min(_LENGTH, getattr(config, "max_position_embeddings", _LENGTH))
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, config.vocab_size, (2, 2, length), generator=generator)
    real = torch.ones(2, length, dtype=torch.long)
    real[1, : length // 3] = 0
    answers = torch.zeros(2, dtype=torch.long)
    batch = from_ids(ids[0], ids[1], answers, attention_mask=real, device=model.device)
    clean, corrupted = model.capture(batch, "clean"), model.capture(batch, "corrupted")
    deltas = SenderValues.of(corrupted).minus(SenderValues.of(clean), batch.real)
    kept = model.graph.edge_senders != 0
    executor = model.executor(clean, batch)
    hidden = run_circuit(model.parts, model.graph, executor, clean, deltas, np.asarray(kept))
    found = model.unembedding.logits(hidden).double()
    errors, scales = [], []
    for row in range(2):  # alone and unpadded: padding must not matter
        stock = [_stock_logits(model, ids[row, batch.real[row]]) for ids in (batch.corrupted, batch.clean)]
        errors.append((found[row].to(stock[0].device) - stock[0][-1]).abs().max())
        scales += [logits.abs().max() for logits in stock]
    scale = torch.stack(scales).max().clamp(min=1e-12)
    return float(torch.stack(errors).max() / scale)


def _stock_logits(model: PatchableModel, ids: Int[Tensor, " pos"]) -> Float[Tensor, "pos vocab"]:
    """Logits of one prompt by the stock model, with all of its own defaults."""
    logits: Tensor = model.hf(input_ids=ids[None], use_cache=False).logits
    return logits[0].double()


def check_model(model: PatchableModel) -> None:
    """Raises ModelError when the recomputed logits differ from the stock ones by more than the dtype allows."""
    error = relative_error(model)
    allowed = _TOLERANCE[model.hf.dtype]
    if not error <= allowed:
        raise ModelError(
            f"{model.config.model_type} model fails the self-check: recomputed logits differ from the stock ones by "
            f"{error:.1e} (allowed {allowed:.0e}); this variant is not supported"
        )
