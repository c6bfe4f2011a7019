"""One model seen twice: as the product loads it and as the oracles compute it, on the same prompts.

What every test of exactness starts from. The stock model is built and saved by `tests.oracles.models`. The oracle
follows the pure formulas, and while a test uses `setting_of` nothing of the product's model leaves float64.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline import load_model
from tests.oracles import metrics, models
from tests.oracles.dense import Dense, Forward
from tests.oracles.float64 import Float64Throughout

PADDINGS = ("none", "left", "right")
LENGTHS = {"none": [6, 6, 6], "left": [6, 3, 5], "right": [6, 3, 5]}


@dataclass(frozen=True)
class Setting:
    """The product's model and batch, the oracle's network and prompts, and both runs of the oracle."""

    model: Any
    batch: Any
    dense: Dense
    prompts: models.Prompts
    clean: Forward
    corrupted: Forward

    @property
    def graph(self):
        return self.dense.graph

    def ablated(self, ablation: str) -> Tensor:
        """What ablated senders write, [senders, b, T, d], by the definitions."""
        outputs, real = self.corrupted.outputs, self.prompts.real
        if ablation == "corrupted":
            return outputs
        if ablation == "zero":
            return torch.zeros_like(outputs)
        if ablation == "mean":
            return outputs[:, real].mean(1)[:, None, None].expand_as(outputs).contiguous()
        if ablation == "mean_positional":
            return outputs.mean(1, keepdim=True).expand_as(outputs).contiguous()
        raise ValueError(ablation)

    def values(self, metric: str, logits: Tensor) -> Tensor:
        """The metric per prompt of logits [b, T, V]."""
        p = self.prompts
        reference = metrics.at_answers(self.clean.logits, p.answer_pos)
        rows = metrics.at_answers(logits, p.answer_pos)
        return metrics.metric_values(metric, rows, p.answers, p.wrong, reference)

    def harm(self, metric: str, logits: Tensor) -> Tensor:
        return metrics.harm(metric, self.values(metric, logits))

    def patched(self, kept: np.ndarray, ablation: str = "corrupted") -> Tensor:
        """Logits of the clean run with only the kept edges."""
        return self.dense.forward(self.prompts.clean, self.prompts.mask, kept, self.ablated(ablation)).logits


def make_setting(
    folder: Path,
    kind: str,
    *,
    padding: str = "none",
    kv: str = "query_head",
    dtype: str = "float64",
    lengths: list[int] | None = None,
    **shape: Any,
) -> Setting:
    """Builds, saves and loads a model, and runs the oracle on its prompts. `shape` goes to `models.build`."""
    stock = models.build(kind, **shape)
    model = load_model(models.save(stock, folder), dtype=dtype, kv=kv)
    prompts = models.prompts(lengths or LENGTHS[padding], padding)
    dense = Dense(stock, model.graph, float32_norms=False)
    return Setting(
        model=model,
        batch=batch_of(model, prompts),
        dense=dense,
        prompts=prompts,
        clean=dense.forward(prompts.clean, prompts.mask),
        corrupted=dense.forward(prompts.corrupted, prompts.mask),
    )


def batch_of(model: Any, prompts: models.Prompts) -> Any:
    return model.batch_from_ids(
        prompts.clean, prompts.corrupted, ragged(prompts.answers), ragged(prompts.wrong), prompts.mask
    )


def ragged(rows: list[list[int]]) -> Tensor:
    width = max(len(row) for row in rows)
    return torch.tensor([row + [-1] * (width - len(row)) for row in rows])


def relative_error(found: Any, expected: Any) -> float:
    """Largest difference as a share of the largest expected size."""
    found, expected = np.asarray(found, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.fixture(scope="session")
def settings(tmp_path_factory):
    """Makes settings, each once a session: `settings("gpt2", padding="left")`."""
    made = {}

    def make(kind, **options):
        key = (kind, repr(sorted(options.items())))
        if key not in made:
            made[key] = make_setting(tmp_path_factory.mktemp(kind) / "model", kind, **options)
        return made[key]

    return make


@pytest.fixture
def setting_of(settings):
    """`settings`, in a test in which nothing leaves float64."""
    with Float64Throughout():
        yield settings
