"""One model seen twice: as the product loads it and as the oracles compute it, on the same prompts.

What every test of exactness starts from. The stock model is built and saved by `tests.oracles.models`. The oracle
follows the pure formulas, and while a test uses `setting_of` nothing of the product's model leaves float64.
"""

import copy
import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline import load_model
from pipeline.core.wiring import wire
from pipeline.engine.circuit_run import run_circuits
from pipeline.engine.emptied import Emptied
from pipeline.engine.senders import SenderValues
from tests.oracles import metrics, models
from tests.oracles.dense import Dense, Forward, position_ids
from tests.oracles.float64 import float64_throughout

PADDINGS = ("none", "left", "right")
# Every kind with every padding, and its grouped keys and values with one.
CASES = tuple(
    (kind, kv, padding)
    for kind, kv in models.SHAPES
    for padding in PADDINGS
    if kv == "query_head" or padding == "left"
)
LENGTHS = {"none": [6, 6, 6], "left": [6, 3, 5], "right": [6, 3, 5]}


@dataclass(frozen=True)
class Setting:
    """The product's model and batch, the stock model in the same precision, the oracle's network and prompts, and
    both runs of the oracle."""

    model: Any
    stock: Any
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
    stock: Any,
    model: Any,
    padding: str = "none",
    lengths: list[int] | None = None,
    shared: int = 0,
    seed: int = 0,
    post_norm: str = "mixed",
) -> Setting:
    """Runs the oracle of a stock model, and makes the batch of the product's, on the same prompts."""
    prompts = models.prompts(lengths or LENGTHS[padding], padding, seed, shared=shared)
    dense = Dense(stock, model.graph, float32_norms=False, post_norm=post_norm)
    return Setting(
        model=model,
        stock=copy.deepcopy(stock).to(model.hf.dtype),
        batch=batch_of(model, prompts),
        dense=dense,
        prompts=prompts,
        clean=dense.forward(prompts.clean, prompts.mask),
        corrupted=dense.forward(prompts.corrupted, prompts.mask),
    )


def recomputed_logits(setting: Setting, kept: np.ndarray) -> Tensor:
    """What the product's executor makes of a circuit: logits at the answers, [b, V]."""
    model, batch = setting.model, setting.batch
    clean, corrupted = model.capture(batch, "clean"), model.capture(batch, "corrupted")
    executor, ablated = model.executor(clean, batch.answer_pos), SenderValues.of(corrupted)
    emptied = Emptied.of(model.parts, model.graph, executor, clean, ablated)
    hidden = run_circuits(emptied, wire(model.graph, model.coupled, kept[None], mute=False))
    return model.unembedding.logits(hidden[0])


def stock_logits(setting: Setting, ids: Tensor, *, eager: bool = False) -> Tensor:
    """Logits at the answers of the untouched model, run as anybody would, [b, V]."""
    hf, p = setting.stock, setting.prompts
    hf.set_attn_implementation("sdpa" if hf._supports_sdpa and not eager else "eager")
    with torch.no_grad():
        run = hf(ids, attention_mask=p.mask, position_ids=position_ids(ids, p.mask), use_cache=False)
    return metrics.at_answers(run.logits, p.answer_pos)


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


def assert_same_circuit(found: Any, expected: tuple[np.ndarray, np.ndarray], graph: Any) -> None:
    """Scores with the kept edges, and the deltas where they were measured, of (kept, delta) by the oracle."""
    kept, delta = expected
    assert 0 < kept.sum() < graph.n_edges
    assert not [graph.edge_names[e] for e in np.flatnonzero(found.kept != kept)]
    measured = found.n_prompts > 0
    assert measured[kept].all()
    np.testing.assert_allclose(found.score[measured], delta[measured], rtol=0, atol=1e-9)
    np.testing.assert_array_equal(delta[~measured], 0.0)  # what was skipped had no effect at all


@pytest.fixture(scope="session")
def settings(tmp_path_factory):
    """Makes settings, each once a session: `settings("gpt2", padding="left", heads=2)`.

    `kv`, `dtype` and `post_norm` go to `load_model`, what says nothing about prompts to `models.build`.
    """

    @functools.cache
    def loaded(kind, kv, dtype, post_norm, shape):
        stock = models.build(kind, **dict(shape))
        folder = models.save(stock, tmp_path_factory.mktemp(kind) / "model")
        return stock, load_model(folder, dtype=dtype, kv=kv, post_norm=post_norm)

    @functools.cache
    def made(kind, kv, dtype, post_norm, padding, lengths, shared, shape):
        lengths = list(lengths) if lengths else None
        stock, model = loaded(kind, kv, dtype, post_norm, shape)
        return make_setting(stock, model, padding, lengths, shared, post_norm=post_norm)

    def make(
        kind,
        *,
        kv="query_head",
        dtype="float64",
        post_norm="mixed",
        padding="none",
        lengths=None,
        shared=0,
        **shape,
    ):
        lengths = None if lengths is None else tuple(lengths)
        return made(kind, kv, dtype, post_norm, padding, lengths, shared, tuple(sorted(shape.items())))

    return make


@pytest.fixture
def setting_of(settings):
    """`settings`, in a test in which nothing leaves float64."""
    with float64_throughout():
        yield settings
