"""Large products in float32 by oneDNN's kernel against torch's own choice, alone and within methods.

Each beside the other in turn; equality is a matter of tests (`tests/engine/test_products.py`). The model has the shape
of GPT-2 small.
"""

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch

from pipeline.engine import products
from pipeline.engine.patchable import PatchableModel
from pipeline.methods import Acdc, EapIg
from tests.benchmarks.attribution import prompts
from tests.benchmarks.measure import cpu_seconds, row
from tests.benchmarks.models import ioi_like

SHAPES = ((128, 768, 3072), (672, 768, 3072), (672, 3072, 768), (128, 768, 50257))
TURNS = 5


def product_rows(model: PatchableModel) -> list[dict[str, Any]]:
    """How many times as fast products are, and what that makes of `eap_ig` and `acdc`."""
    torch.manual_seed(0)
    rows = []
    for n_rows, read, write in SHAPES:
        x, weight = torch.randn(n_rows, read), torch.randn(write, read)
        plain, quick = _both(lambda x=x, weight=weight: products.linear(x, weight), TURNS)
        size = 2e-9 * n_rows * read * write
        note = f"{size / quick:.0f} against {size / plain:.0f} Gflop/s"
        rows.append(
            row(f"product {n_rows} x {read} x {write}", plain / quick, "x faster", "torch's own", note)
        )
    batch, few = model.batch_from_ids(**prompts()), model.batch_from_ids(**ioi_like(8))
    for what, work in (
        ("eap_ig, 5 steps, B8 T32", lambda: EapIg(steps=5).score(model, [batch])),
        ("acdc kl_divergence threshold 0.1", lambda: Acdc(threshold=0.1).score(model, [few])),
    ):
        plain, quick = _both(work, 2)
        note = f"{quick:.2f} against {plain:.2f} s"
        rows.append(row(f"{what}, large products by oneDNN", plain / quick, "x faster", "torch's own", note))
    return rows


def _both(work: Callable[[], Any], turns: int) -> tuple[float, float]:
    """CPU seconds with torch's own products and with oneDNN's, the best of some turns."""
    plain, quick = [], []
    for _ in range(turns):
        with patch.object(products, "_THERE", new=False):
            plain.append(cpu_seconds(work, 1))
        quick.append(cpu_seconds(work, 1))
    return min(plain), min(quick)
