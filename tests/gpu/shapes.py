"""Random models in the shapes of real ones, made on the device from a config alone, and prompts for them.

Weights are drawn, so that no score means anything: what they are for is time and memory.
"""

from typing import Any

import numpy as np
import torch

from pipeline.engine.batch import Batch, from_ids
from pipeline.engine.patchable import PatchableModel, patchable
from pipeline.methods import Acdc, Eap
from pipeline.metrics import get_metric
from tests.gpu.kit import Kit

SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {
        "hidden_size": 64,
        "intermediate_size": 160,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 2048,
        "tie_word_embeddings": True,
    },
    "smollm2": {  # SmolLM2-135M
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "vocab_size": 49152,
        "tie_word_embeddings": True,
    },
    "1b": {  # Llama 3.2 1B
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "tie_word_embeddings": True,
    },
    "8b": {  # Llama 3.1 8B
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "tie_word_embeddings": False,
    },
}
KEPT = 0.01  # of all edges, about


def chosen(kit: Kit) -> tuple[str, ...]:
    """The shapes to measure."""
    return kit.shapes or (("smollm2", "1b", "8b") if kit.on_cuda else ("tiny",))


def stock(name: str, kit: Kit, dtype: str, **changed: int) -> Any:
    """A Llama of that shape but for what is `changed`, in evaluation mode, its weights drawn where they stay."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    torch.manual_seed(0)
    sizes = SHAPES[name] | changed
    config = LlamaConfig(**sizes, max_position_embeddings=2048, bos_token_id=0, eos_token_id=0)
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(getattr(torch, dtype))
        with kit.device:
            model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    finally:
        torch.set_default_dtype(before)
    return model.to(kit.device).eval().requires_grad_(requires_grad=False)


def wrapped(name: str, kit: Kit, dtype: str) -> PatchableModel:
    return patchable(stock(name, kit, dtype))


def prompts(config: Any, kit: Kit, count: int, length: int) -> Batch:
    """Random prompts; the corrupted ones differ from the second token on."""
    generator = torch.Generator().manual_seed(0)
    clean, corrupted = torch.randint(1, config.vocab_size, (2, count, length), generator=generator)
    corrupted[:, 0] = clean[:, 0]
    answers, wrong = torch.randint(1, config.vocab_size, (2, count), generator=generator)
    return from_ids(clean, corrupted, answers, wrong, device=kit.device)


def acdc(model: PatchableModel, batch: Batch, metric: str) -> Acdc:
    """A search that keeps some edges of a random model: for the logit difference the threshold is what one edge in a
    hundred exceeds by eap, for the divergence a hundredth of that between clean and corrupted prompts."""
    if metric == "kl_divergence":
        with torch.no_grad():
            clean, corrupted = model.answer_hidden(batch, "clean"), model.answer_hidden(batch, "corrupted")
            whole = model.objective(get_metric(metric), batch, clean)(corrupted)
        return Acdc(threshold=KEPT * float(whole.mean()), metric=metric)
    sizes = np.abs(Eap().score(model, [batch], metric=metric).score)
    return Acdc(threshold=float(np.quantile(sizes, 1 - KEPT)), metric=metric)
