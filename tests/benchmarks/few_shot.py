"""Prompts whose clean and corrupted side share a long beginning, as few-shot prompts do, against the same number of
tokens that differ from the first on: how much of the work on what is equal is left out.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from pipeline.engine.batch import Batch
from pipeline.engine.patchable import PatchableModel
from pipeline.evaluation import circuit_values, selections
from pipeline.methods import Eap, EapIg, EdgePatching
from tests.benchmarks.measure import cpu_seconds, row

COUNT, LENGTH, SHARED = 4, 60, 50
SIZES = (0.01, 0.05)


def few_shot_rows(model: PatchableModel, weights: str) -> list[dict[str, Any]]:
    """Methods and circuits with 50 of 60 tokens equal and with none."""
    none, most = (prompts(model, shared) for shared in (0, SHARED))
    masks = np.stack([circuit.mask for _, circuit in selections(SIZES, Eap().score(model, [most]))])
    works: dict[str, Callable[[Batch], Any]] = {
        "eap": lambda batch: Eap().score(model, [batch]),
        "eap_ig-5": lambda batch: EapIg(steps=5).score(model, [batch]),
        "edge_patching into m6": lambda batch: EdgePatching(receivers=("m6",)).score(model, [batch]),
        "circuits of 1 and 5 %": lambda batch: circuit_values(model, [batch], masks),
    }
    found = []
    for what, work in works.items():
        before, after = (cpu_seconds(lambda work=work, b=batch: work(b), 2) for batch in (none, most))
        name = f"{what}, B{COUNT} T{LENGTH}, {SHARED} tokens equal"
        note = f"{after:.2f} s and {before:.2f} s; {weights}"
        found.append(row(name, before / after, "x faster", "none equal", note))
    return found


def prompts(model: PatchableModel, shared: int) -> Batch:
    """Prompts of which so many tokens in front are those of the corrupted side; the token after them is not."""
    generator = torch.Generator().manual_seed(0)
    clean, corrupted = torch.randint(0, 60, (2, COUNT, LENGTH), generator=generator)
    corrupted[:, :shared] = clean[:, :shared]
    corrupted[:, shared] = (clean[:, shared] + 1) % 60
    answers = torch.randint(0, 40, (COUNT, 1), generator=generator)
    return model.batch_from_ids(clean, corrupted, answers, (answers + 1) % 40)
