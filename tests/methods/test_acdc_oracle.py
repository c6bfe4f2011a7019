"""The fast ACDC keeps exactly the edges of an ACDC that runs one full forward per edge."""

import numpy as np
import pytest

from pipeline.methods import Acdc
from tests.exactness import assert_same_circuit, relative_error
from tests.oracles import models
from tests.slowly import slow

SHAPES = {
    "gpt2": ("gpt2", {"layers": 3, "heads": 3, "width": 12, "padding": "right"}),
    "llama": ("llama", {"layers": 3, "heads": 4, "kv_heads": 2, "width": 16, "padding": "left"}),
    "llama-kv": (
        "llama",
        {"layers": 3, "heads": 4, "kv_heads": 2, "width": 16, "padding": "left", "kv": "kv_head"},
    ),
}
THRESHOLDS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
# The other families, smaller; those whose heads depend on each other with grouped keys and values too.
FAMILIES = {kind: (kind, {"padding": "left"}) for kind in models.KINDS if kind not in SHAPES} | {
    f"{kind}-kv": (kind, {"padding": "left", "kv": "kv_head"})
    for kind in ("qwen3", "gemma2", "gemma3", "olmo2", "cohere_qk")
}
FAMILY_THRESHOLDS = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)


def fast(setting, batches=None, **options):
    ablation = options.pop("ablation", "corrupted")
    metric = options.pop("metric", "kl_divergence")
    return Acdc(**options).score(setting.model, batches or [setting.batch], metric=metric, ablation=ablation)


@pytest.mark.parametrize("threshold", THRESHOLDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_kept_edges_are_those_of_naive_acdc(setting_of, naive, shape, threshold):
    kind, options = SHAPES[shape]
    setting = setting_of(kind, **options)
    found = fast(setting, threshold=threshold)
    assert_same_circuit(found, naive(setting, "kl_divergence", threshold), setting.graph)


@pytest.mark.parametrize("shape", FAMILIES)
def test_kept_edges_of_every_family_are_those_of_naive_acdc(setting_of, naive, shape):
    kind, options = FAMILIES[shape]
    setting = setting_of(kind, **options)
    for threshold in FAMILY_THRESHOLDS[:: 4 if shape.endswith("-kv") else 2]:
        found = fast(setting, threshold=threshold)
        assert_same_circuit(found, naive(setting, "kl_divergence", threshold), setting.graph)


@pytest.mark.parametrize("rule", ["absolute", "signed"])
@pytest.mark.parametrize("shape", ["gpt2", "llama-kv", "gemma2", "olmo2"])
def test_kept_edges_are_those_of_naive_acdc_for_a_metric_with_a_direction(setting_of, naive, shape, rule):
    kind, options = (SHAPES | FAMILIES)[shape]
    setting = setting_of(kind, **options)
    found = fast(setting, threshold=0.01, rule=rule, metric="logit_diff")
    assert_same_circuit(found, naive(setting, "logit_diff", 0.01, rule), setting.graph)


@pytest.mark.parametrize("shape", ["gpt2", "llama", "gemma2", "olmo2", "granite", "gptj"])
def test_kept_edges_are_those_of_naive_acdc_under_zero_ablation(setting_of, naive, shape):
    kind, options = (SHAPES | FAMILIES)[shape]
    setting = setting_of(kind, **options)
    found = fast(setting, threshold=0.01, ablation="zero")
    assert_same_circuit(found, naive(setting, "kl_divergence", 0.01, ablation="zero"), setting.graph)


@pytest.mark.parametrize("shape", ["gpt2", "llama-kv", "gemma2-kv", "olmo2"])
def test_decisions_do_not_depend_on_how_far_ahead_is_speculated(setting_of, shape):
    kind, options = (SHAPES | FAMILIES)[shape]
    setting = setting_of(kind, **options)
    runs = [fast(setting, threshold=0.003, width=width) for width in (1, 7, 16)]
    for run in runs[1:]:
        np.testing.assert_array_equal(run.kept, runs[0].kept)
        assert relative_error(np.nan_to_num(run.score), np.nan_to_num(runs[0].score)) <= 1e-10


@pytest.mark.parametrize("kind", ["gpt2", "qwen2"])
def test_thresholds_at_the_ends_keep_everything_and_nothing(setting_of, kind):
    setting = setting_of(kind)
    assert fast(setting, threshold=-1e9).kept.all()
    assert not fast(setting, threshold=1e9).kept.any()


@pytest.mark.parametrize("metric", ["kl_divergence", "logit_diff"])
def test_the_final_metric_is_that_of_the_kept_circuit_and_its_harm_is_bounded_by_the_removals(
    setting_of, metric
):
    setting = setting_of(SHAPES["gpt2"][0], **SHAPES["gpt2"][1])
    before = float(setting.harm(metric, setting.clean.logits).mean())
    for threshold in (1e-3, 1e-2, 1e-1):
        found = fast(setting, threshold=threshold, metric=metric, rule="signed")
        logits = setting.patched(found.kept)
        assert found.facts["final_metric"] == pytest.approx(
            float(setting.values(metric, logits).mean()), rel=1e-9
        )
        assert float(setting.harm(metric, logits).mean()) - before <= threshold * (~found.kept).sum()


@pytest.mark.slow
def test_single_precision_decides_as_double_where_the_margin_allows(setting_of, naive):
    kind, options = SHAPES["gpt2"]
    double, single = setting_of(kind, **options), setting_of(kind, **options, dtype="float32")
    for threshold in THRESHOLDS:
        kept, delta = naive(double, "kl_divergence", threshold)
        if np.abs(delta - threshold).min() > 1e-6:
            np.testing.assert_array_equal(fast(single, threshold=threshold).kept, kept)


@pytest.mark.parametrize(
    ("kind", "seed"),
    [
        ("mistral", 2),
        *slow(*((kind, 0) for kind in ("gpt2", "llama", "qwen2", "gemma3", "opt"))),
        *slow(*((kind, seed) for kind in ("mistral", "gemma2", "olmo2") for seed in (0, 1))),
    ],
)
def test_single_precision_has_the_deltas_and_the_end_of_double_under_zero_ablation(setting_of, kind, seed):
    """Where nothing is left a norm multiplies whatever rounding leaves, by up to 1/sqrt(eps) in every layer."""
    shape = {"layers": 4, "heads": 2, "kv_heads": 1, "width": 8, "padding": "left", "seed": seed}
    double, single = setting_of(kind, **shape), setting_of(kind, **shape, dtype="float32")
    for metric, threshold in (("kl_divergence", 0.01), ("logit_diff", 0.1), ("logit_diff", 1.0)):
        options = {"threshold": threshold, "metric": metric, "ablation": "zero"}
        expected, found = fast(double, **options), fast(single, **options)
        np.testing.assert_array_equal(found.kept, expected.kept)
        np.testing.assert_allclose(found.score, expected.score, rtol=0, atol=5e-6)
        assert found.facts["final_metric"] == pytest.approx(expected.facts["final_metric"], abs=2e-6)
