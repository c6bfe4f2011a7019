"""Rows that no removal can change are left out of a search, and never out of its result."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.ablations import ablate
from pipeline.engine import packed
from pipeline.engine.packed import Packing
from pipeline.engine.patchable import patchable
from pipeline.engine.recorded import Recorded
from pipeline.engine.senders import at_answer
from pipeline.methods import Acdc
from pipeline.metrics import get_metric
from tests.oracles import models
from tests.oracles.float64 import float64_throughout


@pytest.fixture(autouse=True, scope="module")
def packed_however_small():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed, "_LEAST", 0)
        yield


def ragged(model, *, side="right", **options):
    """Four prompts of 3 to 7 tokens that differ from their corrupted ones from position 1, 2, 3 and 0 on."""
    generator = torch.Generator().manual_seed(1)
    clean, corrupted = torch.randint(1, models.VOCABULARY, (2, 4, 7), generator=generator)
    mask = torch.zeros(4, 7, dtype=torch.long)
    for row, (length, first) in enumerate(((7, 1), (5, 2), (6, 3), (3, 0))):
        start = 7 - length if side == "left" else 0
        mask[row, start : start + length] = 1
        corrupted[row, : start + first] = clean[row, : start + first]
        corrupted[row, start + first] = clean[row, start + first] % (models.VOCABULARY - 1) + 1
    answers = torch.tensor([[1], [2], [3], [4]])
    return model.batch_from_ids(clean, corrupted, answers, answers + 4, attention_mask=mask, **options)


@st.composite
def rows_kept(draw):
    n_prompts, length = draw(st.integers(1, 4)), draw(st.integers(1, 6))
    cells = draw(st.lists(st.booleans(), min_size=n_prompts * length, max_size=n_prompts * length))
    kept = torch.tensor(cells).view(n_prompts, length)
    several = draw(st.sampled_from([(), (2,)]))
    places = [draw(st.integers(0, length - 1)) for _ in range(n_prompts * (several or (1,))[0])]
    answer_pos = torch.tensor(places).view(n_prompts, *several)
    kept = kept.scatter(1, answer_pos.view(n_prompts, -1), value=True)
    return answer_pos, draw(st.sampled_from([kept, None]))


@given(rows_kept(), st.sampled_from([(), (3,), (2, 3)]))
def test_packed_rows_come_back_where_they_were_and_those_of_the_base_elsewhere(rows, lead):
    packing = Packing(*rows)
    n_prompts = len(packing.answer_pos)
    length = 6 if packing.kept is None else packing.kept.shape[1]
    x = torch.randn(*lead, n_prompts, length, 2)
    base = torch.zeros(n_prompts, length, 2)
    there = packing.pack(x)
    kept = torch.ones(n_prompts, length, dtype=torch.bool) if packing.kept is None else packing.kept
    torch.testing.assert_close(packing.unpack(there, base), x * kept[..., None], rtol=0, atol=0)
    torch.testing.assert_close(packing.at_answer(there), at_answer(x, packing.answer_pos), rtol=0, atol=0)
    assert packing.kept is None or there.shape == (*lead, 1, int(kept.sum()), 2)


@pytest.mark.parametrize("side", ["left", "right"])
def test_rows_are_kept_from_the_first_difference_of_each_prompt_on(side):
    model = patchable(models.build("llama"))
    kept = Packing.of(ablate(model, ragged(model, side=side), "corrupted")).kept
    expected = [
        [0, 1, 1, 1, 1, 1, 1],
        [0, 0, 1, 1, 1, 0, 0],
        [0, 0, 0, 1, 1, 1, 0],
        [1, 1, 1, 0, 0, 0, 0],
    ]
    if side == "left":  # no prompt differs in the first column: it was never run
        expected = [[1, 1, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 1]]
    assert kept.int().tolist() == expected


def test_padding_alone_is_left_out_where_every_row_is_exchanged():
    model = patchable(models.build("gpt2"))
    batch = ragged(model)
    assert torch.equal(Packing.of(ablate(model, batch, "zero")).kept, batch.real)


def test_rows_before_the_first_difference_are_kept_where_they_look_at_later_ones():
    model = patchable(models.build("gpt2"))
    batch = ragged(model)
    wide = torch.zeros(4, 1, 7, 7, dtype=torch.float64)
    open_mask = wide.masked_fill(~batch.real[:, None, None], torch.finfo(torch.float64).min)
    seeing = model.batch_from_ids(batch.clean, batch.corrupted, batch.answers, batch.wrong_answers, open_mask)
    assert Packing.of(ablate(model, seeing, "corrupted")).kept is None


def test_nothing_is_packed_where_little_would_be_saved():
    model = patchable(models.build("gpt2"))
    clean, corrupted = torch.randint(
        1, models.VOCABULARY, (2, 3, 7), generator=torch.Generator().manual_seed(0)
    )
    corrupted[:, 0] = clean[:, 0] % (models.VOCABULARY - 1) + 1
    batch = model.batch_from_ids(clean, corrupted, torch.tensor([1, 2, 3]), torch.tensor([4, 5, 6]))
    assert Packing.of(ablate(model, batch, "corrupted")).kept is None


def test_nothing_is_packed_where_overhead_is_all_there_is(monkeypatch):
    model = patchable(models.build("gpt2"))
    ablated = ablate(model, ragged(model), "corrupted")
    packing = Packing.of(ablated)
    assert packing.kept is not None
    n_saved = packing.kept.numel() - int(packing.kept.sum())
    numbers = n_saved * ablated.deltas.input.shape[-1]
    for least, packs in ((numbers, True), (numbers + 1, False)):
        monkeypatch.setattr(packed, "_LEAST", least)
        assert (Packing.of(ablated).kept is not None) == packs


def test_runs_that_are_recorded_again_keep_the_rows_that_there_were():
    model = patchable(models.build("gpt2"))
    batch = ragged(model)

    def make():
        ablated = ablate(model, batch, "corrupted")
        return ablated, model.objective(get_metric("kl_divergence"), batch, ablated.clean_hidden)

    recorded = Recorded(model.parts, model.graph, batch, make)
    before, delta = recorded.packing, recorded.deltas([1], model.device, all_rows=True)
    recorded.drop()
    assert recorded.packing is before
    assert torch.equal(recorded.deltas([1], model.device, all_rows=True), delta)


def cases():
    """Every family, both sides of padding and two ablations; few of them in the fast suite."""
    for kind in models.KINDS:
        for side, ablation in itertools.product(("left", "right"), ("corrupted", "zero")):
            quick = kind in ("gpt2", "llama", "olmo2", "gemma2") and (side == "left") == (ablation == "zero")
            yield pytest.param(kind, side, ablation, marks=() if quick else pytest.mark.slow)


@pytest.mark.parametrize(("kind", "side", "ablation"), list(cases()))
def test_a_search_finds_what_one_over_all_rows_finds(kind, side, ablation, monkeypatch):
    model = patchable(models.build(kind))
    batch = ragged(model, side=side)
    method = Acdc(threshold=0.002, ablation=ablation, metric="kl_divergence")
    assert Packing.of(ablate(model, batch, ablation)).kept is not None
    with float64_throughout():
        found = method.score(model, [batch])
        monkeypatch.setattr(packed, "_WORTH", 2.0)
        expected = method.score(model, [batch])
    np.testing.assert_array_equal(found.kept, expected.kept)
    np.testing.assert_allclose(found.score, expected.score, rtol=1e-8, atol=1e-11)
    assert 0 < expected.kept.sum() < len(expected.kept)
