"""Positions before the first difference are left out of the work, and never out of the result."""

import numpy as np
import pytest
import torch

from pipeline import ablations
from pipeline.ablations import ablate
from pipeline.engine.patchable import patchable
from pipeline.methods import Acdc, EdgePatching, NodePatching
from tests.oracles import models
from tests.oracles.float64 import float64_throughout


def batch_with_shared_start(model, *, padded=False, **options):
    generator = torch.Generator().manual_seed(1)
    clean, corrupted = torch.randint(1, models.VOCABULARY, (2, 3, 7), generator=generator)
    corrupted[:, :3] = clean[:, :3]
    corrupted[1, 3] = clean[1, 3]
    mask = torch.ones(3, 7, dtype=torch.long)
    if padded:
        mask[1, :2] = 0
    answers = torch.tensor([[1], [2], [3]])
    return model.batch_from_ids(clean, corrupted, answers, answers + 4, attention_mask=mask, **options)


def scores(method, model, batch):
    with float64_throughout():
        found = method.score(model, [batch])
    return found.score, getattr(found, "kept", None)


@pytest.mark.parametrize("kind", models.KINDS)
def test_scores_are_those_of_all_positions(kind, monkeypatch):
    model = patchable(models.build(kind))
    batch = batch_with_shared_start(model, padded=True)
    methods = (
        EdgePatching(),
        EdgePatching(direction="denoising", metric="kl_divergence"),
        NodePatching(positions="from_start"),
        Acdc(threshold=0.003),
    )
    assert ablate(model, batch, "corrupted").start == 3
    windowed = [scores(method, model, batch) for method in methods]
    monkeypatch.setattr(ablations, "_first_difference", lambda _batch: 0)
    assert ablate(model, batch, "corrupted").start == 0
    for (score, kept), method in zip(windowed, methods, strict=True):
        expected, expected_kept = scores(method, model, batch)
        np.testing.assert_allclose(score, expected, rtol=1e-9, atol=1e-10)
        np.testing.assert_array_equal(kept, expected_kept)


def test_nothing_is_left_out_where_positions_see_later_ones():
    model = patchable(models.build("gpt2"))
    batch = batch_with_shared_start(model)
    lowest = torch.finfo(torch.float64).min
    open_mask = torch.zeros(3, 1, 7, 7, dtype=torch.float64)
    answers = batch.answers
    seeing = model.batch_from_ids(batch.clean, batch.corrupted, answers, answers + 4, open_mask)
    assert ablate(model, seeing, "corrupted").start == 0
    causal = open_mask.masked_fill(~torch.ones(7, 7).tril().bool(), lowest)
    given = model.batch_from_ids(batch.clean, batch.corrupted, answers, answers + 4, causal)
    assert ablate(model, given, "corrupted").start == 3


def test_other_ablations_change_every_position():
    model = patchable(models.build("gpt2"))
    assert ablate(model, batch_with_shared_start(model), "zero").start == 0


def test_equal_prompts_have_no_effect():
    model = patchable(models.build("llama"))
    ids = torch.randint(1, models.VOCABULARY, (2, 5), generator=torch.Generator().manual_seed(0))
    batch = model.batch_from_ids(ids, ids, torch.tensor([1, 2]), torch.tensor([3, 4]))
    assert np.abs(EdgePatching().score(model, [batch]).score).max() < 1e-12
