"""Scores of the answer's position alone."""

import numpy as np
import pytest
import torch

from pipeline.engine.patchable import patchable
from pipeline.engine.senders import SenderValues
from pipeline.methods import Eap, EapIg, EdgePatching
from pipeline.store import schema
from pipeline.store.scores import edge_table
from tests.exactness import relative_error
from tests.oracles import models


@pytest.mark.parametrize("padding", ["none", "left", "right"])
@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma2", "cohere"])
def test_edges_patched_at_the_answer_alone_are_a_dense_forward_with_that_difference(
    setting_of, kind, padding
):
    setting = setting_of(kind, padding=padding)
    graph, p = setting.graph, setting.prompts
    found = EdgePatching(positions="last").score(setting.model, [setting.batch])
    assert found.span == "last"
    at = torch.zeros_like(p.clean, dtype=torch.bool)
    at[torch.arange(len(at)), torch.tensor(p.answer_pos)] = True
    ablated = torch.where(at[None, ..., None], setting.corrupted.outputs, setting.clean.outputs)
    clean = setting.harm("logit_diff", setting.clean.logits)
    for edge in range(0, graph.n_edges, 17):
        kept = np.ones(graph.n_edges, dtype=bool)
        kept[edge] = False
        logits = setting.dense.forward(p.clean, p.mask, kept, ablated).logits
        expected = float((setting.harm("logit_diff", logits) - clean).mean())
        assert abs(found.score[edge] - expected) <= 1e-9


@pytest.mark.parametrize("method", [Eap, EapIg])
def test_attribution_is_a_sum_over_positions(setting_of, method, monkeypatch):
    """Restricted to each position in turn, scores add up to those of all positions."""
    setting = setting_of("llama", padding="left")
    whole = method().score(setting.model, [setting.batch]).score
    last = setting.batch.answer_pos.clone()
    total = np.zeros_like(whole)
    only_last = SenderValues.only_last
    for back in range(setting.batch.length):
        shifted = (last - back).clamp(min=-1)
        with monkeypatch.context() as patch:
            patch.setattr(SenderValues, "only_last", lambda self, _, at=shifted: only_last(self, at))
            total += method(positions="last").score(setting.model, [setting.batch]).score
    assert relative_error(total, whole) <= 1e-10


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
    batch = model.batch_from_ids(p.clean, p.corrupted, torch.tensor([1, 2]), torch.tensor([3, 4]))
    for method, span in ((Eap(), None), (Eap(positions="last"), "last")):
        table = edge_table(method.score(model, [batch]), 0)
        assert table.schema.equals(schema.SCORES)
        assert table["span"].unique().to_pylist() == [span]


def test_the_id_of_a_method_tells_its_positions():
    assert [method(positions="last").id for method in (Eap, EdgePatching)] == [
        "eap-last",
        "edge_patching-last",
    ]
    assert Eap().id == "eap"
