"""Positions before the first difference are left out of the work, and never out of the result."""

import numpy as np
import pytest
import torch

from pipeline.ablations import ABLATIONS, Ablation, ablate, collect_statistics
from pipeline.engine import patchable as runs
from pipeline.engine import prefix
from pipeline.engine.patchable import patchable
from pipeline.evaluation import circuit_values
from pipeline.methods import Acdc, Eap, EapIg, EdgePatching, NodePatching
from tests.oracles import models
from tests.oracles.float64 import float64_throughout


def batch_with_shared_start(model, start=3, *, padded=None, **options):
    generator = torch.Generator().manual_seed(1)
    clean, corrupted = torch.randint(1, models.VOCABULARY, (2, 3, 7), generator=generator)
    corrupted[:, :start] = clean[:, :start]
    corrupted[1, start] = clean[1, start]
    mask = torch.ones(3, 7, dtype=torch.long)
    if padded == "left":
        mask[1, :2] = 0
    elif padded == "right":
        mask[1, 5:] = 0
    answers = torch.tensor([[1], [2], [3]])
    return model.batch_from_ids(clean, corrupted, answers, answers + 4, attention_mask=mask, **options)


def scores(method, model, batch):
    with float64_throughout():
        found = method.score(model, [batch])
    return found.score, getattr(found, "kept", None)


def without_a_shared_start(monkeypatch):
    for module in (prefix, runs):
        monkeypatch.setattr(module, "first_difference", lambda _batch: 0)


@pytest.mark.parametrize("kind", models.KINDS)
def test_scores_are_those_of_all_positions(kind, monkeypatch):
    model = patchable(models.build(kind))
    late, early = (batch_with_shared_start(model, n, padded=side) for n, side in ((4, "left"), (3, "right")))
    asked = [
        (Eap(), late),
        (Eap(), early),
        (EapIg(steps=2, metric="kl_divergence"), late),
        (EdgePatching(), late),
        (EdgePatching(direction="denoising", metric="kl_divergence"), early),
        (NodePatching(positions="from_start"), late),
        (Acdc(threshold=0.003), late),
    ]
    assert [ablate(model, batch, "corrupted").start for batch in (late, early)] == [4, 3]
    windowed = [scores(method, model, batch) for method, batch in asked]
    without_a_shared_start(monkeypatch)
    assert ablate(model, late, "corrupted").start == 0
    for (score, kept), (method, batch) in zip(windowed, asked, strict=True):
        expected, expected_kept = scores(method, model, batch)
        np.testing.assert_allclose(score, expected, rtol=1e-9, atol=1e-10)
        np.testing.assert_array_equal(kept, expected_kept)


def test_only_the_columns_behind_it_are_run_again(monkeypatch):
    model = patchable(models.build("llama"))
    batch = batch_with_shared_start(model, 4)
    columns = []

    def spy(hf, parts, ids, batch):
        columns.append(ids.shape[1])
        return original(hf, parts, ids, batch)

    from pipeline.engine import capture, passes

    original = passes.run_base
    for module in (passes, capture, runs):
        monkeypatch.setattr(module, "run_base", spy)
    work = {
        "eap": (lambda: Eap().score(model, [batch]), [7, 3, 3]),
        "eap_ig": (lambda: EapIg(steps=3).score(model, [batch]), [7, 3, 3, 3, 3, 3]),
        "zero": (lambda: Eap(ablation="zero").score(model, [batch]), [7]),
        "edge_patching": (lambda: EdgePatching(receivers=("logits",)).score(model, [batch]), [7, 3, 3]),
        "circuits": (
            lambda: circuit_values(model, [batch], np.ones((1, model.graph.n_edges), bool)),
            [7, 3, 3],
        ),
    }
    for what, (run, expected) in work.items():
        columns.clear()
        run()
        assert columns == expected, what


def test_nothing_is_left_out_where_positions_see_later_ones():
    model = patchable(models.build("gpt2"))
    batch = batch_with_shared_start(model)
    lowest = torch.finfo(torch.float64).min
    open_mask = torch.zeros(3, 1, 7, 7, dtype=torch.float64)
    answers = batch.answers
    seeing = model.batch_from_ids(batch.clean, batch.corrupted, answers, answers + 4, open_mask)
    assert ablate(model, seeing, "corrupted").start == 0
    assert model.corrupted_senders(seeing)[2] is None
    causal = open_mask.masked_fill(~torch.ones(7, 7).tril().bool(), lowest)
    given = model.batch_from_ids(batch.clean, batch.corrupted, answers, answers + 4, causal)
    assert ablate(model, given, "corrupted").start == 3
    assert model.corrupted_senders(given)[2].start == 3


def test_ablations_that_change_equal_positions_keep_them_all(monkeypatch):
    model = patchable(models.build("gpt2"))
    batch = batch_with_shared_start(model)
    assert ablate(model, batch, "zero").start == 0
    statistics = collect_statistics(model, [batch])
    assert ablate(model, batch, "mean", statistics).start == 0
    twice = Ablation(
        "twice",
        "",
        lambda _, corrupted, __: corrupted.minus(corrupted.zeros().minus(corrupted, batch.real), batch.real),
        needs_corrupted=True,
    )
    monkeypatch.setitem(ABLATIONS, "twice", twice)
    changed = ablate(model, batch, "twice")
    assert changed.start == 0
    assert changed.deltas.input[:, :3].abs().max() > 0


def test_equal_prompts_have_no_effect():
    model = patchable(models.build("llama"))
    ids = torch.randint(1, models.VOCABULARY, (2, 5), generator=torch.Generator().manual_seed(0))
    batch = model.batch_from_ids(ids, ids, torch.tensor([1, 2]), torch.tensor([3, 4]))
    assert np.abs(EdgePatching().score(model, [batch]).score).max() < 1e-12
    assert np.abs(Eap().score(model, [batch]).score).max() == 0


def test_what_is_equal_behind_it_is_equal_to_the_last_bit():
    """Rounding that is left in the place of nothing would be scaled up by norms."""
    model = patchable(models.build("llama").float())
    batch = batch_with_shared_start(model, 4)
    assert torch.equal(batch.clean[1, 4], batch.corrupted[1, 4])
    patched = ablate(model, batch, "corrupted").deltas
    corrupted, later, seen = model.corrupted_senders(batch)
    attributed = corrupted.minus(model.senders(later, "clean", seen)[0], later.real)
    for deltas in (patched, attributed):
        assert all(not value[1, 0].any() for value in (deltas.input, *deltas.z, *deltas.mlp))
