"""Scores of the answer's position alone, and of spans that prompts name."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from pipeline.core.prompts import PromptPair, TokenPair
from pipeline.core.results import EDGE_SCORES
from pipeline.engine.patchable import patchable
from pipeline.methods import Eap, EapIg, EdgePatching, NodePatching, PathPatching
from pipeline.store.run import schema
from pipeline.store.run.rows import table_of
from tests.exactness import relative_error
from tests.oracles import models

EDGE_METHODS = (Eap, EapIg, EdgePatching)
TO_A_HEAD = partial(PathPatching, receivers=("a1.h0<v>",))  # the logits read the answer alone anyway
METHODS = (*EDGE_METHODS, NodePatching, TO_A_HEAD)


def spanned(batch, lacking=()):
    """The batch with a span `odd`: every second real position, none in the prompts that lack it."""
    odd = batch.real & (batch.position_ids % 2 == 1)
    odd[list(lacking)] = False
    return replace(batch, spans={"odd": odd})


def batch_of(model, lengths, padding, spans=({"s": (0, 1)},)):
    """Pairs of these lengths, prompt i with spans i, the last spans for all further ones."""
    generator = torch.Generator().manual_seed(7)

    def draw(n):
        return tuple(torch.randint(1, models.VOCABULARY, (n,), generator=generator).tolist())

    pairs = []
    for i, length in enumerate(lengths):
        clean, corrupted = draw(length), draw(length)
        named = spans[min(i, len(spans) - 1)]
        pairs.append(TokenPair(i, clean, corrupted, (1 + i,), (5 + i,), PromptPair("", "", ()), named))
    return model.batch(pairs, padding=padding)


@pytest.mark.parametrize("positions", ["last", "odd"])
@pytest.mark.parametrize("padding", ["none", "left", "right"])
@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma2", "cohere"])
def test_edges_patched_somewhere_are_a_dense_forward_with_that_difference(
    setting_of, kind, padding, positions
):
    setting = setting_of(kind, padding=padding)
    graph, p = setting.graph, setting.prompts
    found = EdgePatching(positions=positions).score(setting.model, [spanned(setting.batch, lacking=[1])])
    assert found.span == positions
    at, there = torch.zeros_like(p.clean, dtype=torch.bool), [0, 1, 2] if positions == "last" else [0, 2]
    for row in there:
        start = p.answer_pos[row] - p.lengths[row] + 1
        odd = torch.arange(start + 1, p.answer_pos[row] + 1, 2)
        at[row, p.answer_pos[row] if positions == "last" else odd] = True
    ablated = torch.where(at[None, ..., None], setting.corrupted.outputs, setting.clean.outputs)
    clean = setting.harm("logit_diff", setting.clean.logits)
    assert set(found.n_prompts) == {len(there)}
    for edge in range(0, graph.n_edges, 17):
        kept = np.ones(graph.n_edges, dtype=bool)
        kept[edge] = False
        logits = setting.dense.forward(p.clean, p.mask, kept, ablated).logits
        expected = (setting.harm("logit_diff", logits) - clean)[there]
        assert abs(found.score[edge] - float(expected.mean())) <= 1e-9
        assert abs(found.std[edge] - float(expected.std(correction=0))) <= 1e-9


@pytest.mark.parametrize("ablation", ["corrupted", "zero"])
@pytest.mark.parametrize("method", [Eap, EapIg])
@pytest.mark.parametrize("padding", ["left", "right"])
def test_attribution_to_spans_that_cut_up_the_prompt_adds_up_to_all_of_it(
    setting_of, method, padding, ablation
):
    setting = setting_of("llama", padding=padding)
    part = torch.randint(0, 3, setting.batch.real.shape, generator=torch.Generator().manual_seed(0))
    part[:, setting.batch.answer_pos] = torch.tensor([0, 1, 2])  # each prompt has each of them
    column = torch.arange(setting.batch.length)
    part = torch.where(column == setting.batch.answer_pos[:, None], 2, part)
    part = torch.where(column == setting.batch.answer_pos[:, None] - 1, 1, part)
    part = torch.where(column == setting.batch.answer_pos[:, None] - 2, 0, part)
    masks = {f"part{i}": (part == i) & setting.batch.real for i in range(3)}
    batch = replace(setting.batch, spans=masks)

    whole = method(ablation=ablation).score(setting.model, [batch])
    parts = [method(ablation=ablation, positions=name).score(setting.model, [batch]) for name in masks]

    assert relative_error(sum(found.score for found in parts), whole.score) <= 1e-10
    assert all(relative_error(found.score, whole.score) > 1e-2 for found in parts)


@pytest.mark.parametrize("method", METHODS)
def test_the_answer_is_the_span_of_the_last_token(setting_of, method):
    model = setting_of("gpt2", padding="left").model
    batch = batch_of(model, [6, 3, 5], "left", [{"tail": (n - 1, n)} for n in (6, 3, 5)])
    last, tail = (method(positions=at).score(model, [batch]) for at in ("last", "tail"))
    np.testing.assert_array_equal(tail.score, last.score)
    np.testing.assert_array_equal(tail.n_prompts, last.n_prompts)
    assert np.abs(last.score - method().score(model, [batch]).score).max() > 1e-3


@pytest.mark.parametrize("method", METHODS)
def test_padding_and_the_prompts_beside_change_nothing(setting_of, method):
    model = setting_of("llama", padding="left").model
    spans = [{"s": (2, 5)}, {"s": (1, 2)}, {"s": (0, 4)}]
    left, right = (batch_of(model, [6, 3, 5], side, spans) for side in ("left", "right"))
    left, right, alone = (method(positions="s").score(model, b) for b in ([left], [right], left.split(1)))
    np.testing.assert_allclose(left.score, right.score, atol=1e-10)
    np.testing.assert_allclose(left.score, alone.score, atol=1e-10)
    assert np.abs(left.score).max() > 1e-3


@pytest.mark.parametrize("method", METHODS)
def test_prompts_without_the_span_are_left_out(setting_of, method):
    model = setting_of("gpt2", padding="left").model
    batch = batch_of(model, [6, 3, 5, 4], "left", [{"s": (1, 3)}, {}, {"s": (4, 5)}, {"other": (0, 4)}])
    found = method(positions="s").score(model, batch.split(2), per_prompt=True)
    rest = method(positions="s").score(model, [batch.only(torch.tensor([True, False, True, False]))])
    np.testing.assert_allclose(found.score, rest.score, atol=1e-10)
    np.testing.assert_allclose(found.std, rest.std, atol=1e-10)
    assert set(found.n_prompts) == {2}
    if method in EDGE_METHODS:
        rows = found.per_prompt
        assert np.isnan(rows[[1, 3]]).all()
        np.testing.assert_allclose(rows[[0, 2]].mean(0), found.score, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_where_no_prompt_has_the_span_nothing_is_measured(setting_of, method):
    model = setting_of("gpt2", padding="left").model
    batch = batch_of(model, [6, 3], "left")
    model.counters.reset()
    found = method(positions="other").score(model, [batch], per_prompt=True)
    if method in EDGE_METHODS:
        assert set(found.n_prompts) == {0}
        assert np.isnan(found.score).all()
        assert found.per_prompt.shape == (2, model.graph.n_edges)
        table = table_of(found, found.graph, 0)
        assert table["score"].null_count == table["score_std"].null_count == len(table)
    else:
        assert len(found.node) == len(table_of(found, found.graph, 0)) == 0
    assert model.counters.forward_passes == model.counters.evaluations == 0


@pytest.mark.parametrize("direction", ["noising", "denoising"])
def test_a_span_of_one_token_is_that_position_of_the_nodes(setting_of, direction):
    """Node patching position by position goes another way, which the dense oracle confirms."""
    model = setting_of("gemma2", padding="left").model
    batch = batch_of(model, [6, 4, 5], "left", [{"third": (2, 3)}])
    every = NodePatching(direction=direction, positions="from_start").score(model, [batch])
    third = NodePatching(direction=direction, positions="third").score(model, [batch])
    np.testing.assert_array_equal(third.node, np.arange(model.graph.n_senders))
    assert set(third.span) == {"third"}
    row = np.array([span == "2" for span in every.span])
    np.testing.assert_allclose(third.score, every.score[row], atol=1e-12)
    np.testing.assert_allclose(third.std, every.std[row], atol=1e-12)


@pytest.mark.parametrize("direction", ["noising", "denoising"])
def test_a_path_to_one_receiver_at_a_span_is_the_edge_at_that_span(setting_of, direction):
    setting = setting_of("llama", padding="left")
    batch, graph = spanned(setting.batch, lacking=[1]), setting.graph
    receiver = graph.receivers[-2].name
    edges = EdgePatching(direction=direction, positions="odd").score(setting.model, [batch])
    paths = PathPatching(direction=direction, positions="odd", receivers=(receiver,)).score(
        setting.model, [batch]
    )
    into = graph.edges_into(graph.receiver_index(receiver))
    np.testing.assert_allclose(paths.score, edges.score[into], atol=1e-10)
    assert set(paths.span) == {"odd"}


def test_the_logits_read_the_answer_alone_anyway():
    model = patchable(models.build("gpt2"))
    p = models.prompts([5, 5])
    batch = model.batch_from_ids(p.clean, p.corrupted, torch.tensor([1, 2]), torch.tensor([3, 4]))
    into = model.graph.edges_into(model.graph.logits_receiver)
    every, last = (EdgePatching(positions=at).score(model, [batch]).score for at in ("all", "last"))
    np.testing.assert_allclose(last[into], every[into], atol=1e-12)
    assert np.abs(last - every).max() > 1e-3


def test_the_file_names_the_span():
    model = patchable(models.build("gpt2"))
    p = models.prompts([5, 5])
    name = torch.tensor([[0, 1, 1, 0, 0], [0, 0, 1, 0, 0]])
    batch = model.batch_from_ids(
        p.clean, p.corrupted, torch.tensor([1, 2]), torch.tensor([3, 4]), spans={"name": name}
    )
    for positions, span in (("all", None), ("last", "last"), ("name", "name")):
        table = table_of(Eap(positions=positions).score(model, [batch]), model.graph, 0)
        assert table.schema.equals(schema.of_type(EDGE_SCORES))
        assert table["span"].unique().to_pylist() == [span]


def test_the_id_of_a_method_tells_its_positions():
    assert [method(positions="last").id for method in (Eap, EdgePatching)] == [
        "eap-last",
        "edge_patching-last",
    ]
    assert Eap().id == "eap"
    assert Eap(positions="s1_next").id == "eap-s1_next"
