"""How work is cut to fit into memory changes nothing; nor do prompts of a single token."""

import numpy as np
import pytest
import torch

from pipeline.engine import attribution, part, paths, readout, recorded
from pipeline.evaluation import circuit_values, faithfulness
from pipeline.methods import Acdc, Eap, EapIg, EdgePatching, NodePatching
from tests.exactness import relative_error
from tests.oracles import attribution as oracle
from tests.oracles.acdc import naive_acdc


def edge_table(setting, method, metric="logit_diff"):
    return method.score(setting.model, [setting.batch], metric=metric, per_prompt=True).per_prompt


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize(
    ("module", "name", "value"),
    [
        (attribution, "_CHUNK_BYTES", 1),
        (attribution, "_COLUMNS", 1),
        (attribution, "_COLUMNS", 20),
        (attribution, "_COLUMNS", 10**6),
    ],
)
def test_attribution_in_other_pieces_is_the_same(setting_of, monkeypatch, kind, module, name, value):
    setting = setting_of(kind, padding="left", layers=3)
    whole = edge_table(setting, EapIg(steps=2))
    monkeypatch.setattr(module, name, value)
    assert relative_error(edge_table(setting, EapIg(steps=2)), whole) <= 1e-10


@pytest.mark.parametrize("in_flight", [1, 700, 10**9])
def test_patching_in_other_pieces_is_the_same(setting_of, monkeypatch, in_flight):
    setting = setting_of("gpt2", padding="left")
    nodes = NodePatching(positions="from_end")
    edges = edge_table(setting, EdgePatching())
    table = nodes.score(setting.model, [setting.batch]).score
    monkeypatch.setattr(paths, "_IN_FLIGHT", in_flight)
    assert relative_error(edge_table(setting, EdgePatching()), edges) <= 1e-10
    assert relative_error(nodes.score(setting.model, [setting.batch]).score, table) <= 1e-10


def test_vocabulary_metrics_in_other_pieces_are_the_same(setting_of, monkeypatch):
    setting = setting_of("gpt2", padding="left")
    whole = edge_table(setting, EdgePatching(), "kl_divergence")
    monkeypatch.setattr(readout, "_LOGITS_AT_ONCE", 1)
    assert relative_error(edge_table(setting, EdgePatching(), "kl_divergence"), whole) <= 1e-10


def test_circuits_on_split_batches_have_the_same_values(setting_of, monkeypatch):
    setting = setting_of("qwen2", padding="left")
    masks = np.random.default_rng(0).random((2, setting.graph.n_edges)) < 0.5
    whole = circuit_values(setting.model, [setting.batch], masks, "kl_divergence")
    monkeypatch.setattr(faithfulness, "_BATCH_BYTES", 1)
    assert (
        relative_error(circuit_values(setting.model, [setting.batch], masks, "kl_divergence"), whole) <= 1e-10
    )


@pytest.mark.parametrize("kv", ["query_head", "kv_head"])
def test_acdc_decides_the_same_when_differences_do_not_fit_and_when_batches_are_split(
    setting_of, monkeypatch, kv
):
    setting = setting_of("llama", padding="left", kv=kv, heads=2, kv_heads=1, width=8)
    whole = Acdc(threshold=0.003).score(setting.model, [setting.batch])
    assert 0 < whole.kept.sum() < setting.graph.n_edges
    monkeypatch.setattr(recorded, "DELTA_BYTES", 0)
    monkeypatch.setattr(part, "_VARIANT_BYTES", 1)
    for batches in ([setting.batch], setting.batch.split(2), setting.batch.split(1)):
        again = Acdc(threshold=0.003).score(setting.model, batches)
        np.testing.assert_array_equal(again.kept, whole.kept)
        assert relative_error(np.nan_to_num(again.score), np.nan_to_num(whole.score)) <= 1e-6


@pytest.mark.parametrize(
    ("kind", "padding", "lengths"),
    [("gpt2", "none", [1, 1]), ("llama", "none", [1]), ("llama", "left", [1, 4])],
)
def test_prompts_of_one_token(setting_of, kind, padding, lengths):
    setting = setting_of(kind, padding=padding, lengths=lengths, heads=2, kv_heads=1, width=8)
    graph, p = setting.graph, setting.prompts
    ablated = setting.ablated("corrupted")

    def harm(logits):
        return setting.harm("logit_diff", logits)

    def mean_harm(kept):
        return float(harm(setting.patched(kept)).mean())

    expected = oracle.eap(setting.dense, p.clean, p.mask, ablated, harm)
    assert relative_error(edge_table(setting, Eap()), expected) <= 1e-6
    single = [harm(setting.patched(np.arange(graph.n_edges) != e)) for e in range(graph.n_edges)]
    expected = np.stack([row.numpy() for row in single], 1) - harm(setting.clean.logits).numpy()[:, None]
    assert relative_error(edge_table(setting, EdgePatching()), expected) <= 1e-10
    found = Acdc(threshold=0.01, rule="signed").score(setting.model, [setting.batch], metric="logit_diff")
    np.testing.assert_array_equal(found.kept, naive_acdc(mean_harm, graph, 0.01)[0])


def test_a_chunk_that_finds_no_memory_is_halved_and_scoring_goes_on(setting_of, monkeypatch):
    setting = setting_of("llama", padding="left")
    whole = edge_table(setting, Eap())
    sizes, score = [], attribution._score_chunk

    def scarce(parts, graph, differences, rows, steps):
        sizes.append(rows.stop - rows.start)
        if sizes[-1] > 1:
            raise torch.OutOfMemoryError("on purpose")
        return score(parts, graph, differences, rows, steps)

    monkeypatch.setattr(attribution, "_score_chunk", scarce)
    assert relative_error(edge_table(setting, Eap()), whole) <= 1e-12
    assert sizes == [3, 1, 1, 1]


def test_other_errors_are_not_taken_for_lack_of_memory(setting_of, monkeypatch):
    def fail(*_):
        raise RuntimeError("on purpose")

    monkeypatch.setattr(attribution, "_score_chunk", fail)
    with pytest.raises(RuntimeError, match="on purpose"):
        edge_table(setting_of("llama", padding="left"), Eap())
