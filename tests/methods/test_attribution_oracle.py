"""EAP and EAP-IG, prompt by prompt, against autograd through a dense network with an input per receiver."""

import numpy as np
import pytest

from pipeline.ablations import collect_statistics, needs_statistics
from pipeline.methods import Eap, EapIg
from tests.exactness import CASES, relative_error
from tests.oracles import attribution, models


def per_prompt(setting, method, metric="logit_diff", ablation="corrupted"):
    statistics = None
    if needs_statistics(ablation):
        statistics = collect_statistics(setting.model, [setting.batch])
    scores = method.score(
        setting.model,
        [setting.batch],
        metric=metric,
        ablation=ablation,
        statistics=statistics,
        per_prompt=True,
    )
    np.testing.assert_allclose(scores.score, scores.per_prompt.mean(0), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(scores.std, scores.per_prompt.std(0), rtol=1e-6, atol=1e-9)
    return scores.per_prompt


def expected_eap(setting, metric="logit_diff", ablation="corrupted"):
    p = setting.prompts
    ablated = setting.ablated(ablation)
    return attribution.eap(
        setting.dense, p.clean, p.mask, ablated, lambda logits: setting.harm(metric, logits)
    )


@pytest.mark.parametrize(("kind", "kv", "padding"), CASES)
def test_eap_is_the_gradient_at_every_receiver_times_the_senders_change(setting_of, kind, kv, padding):
    setting = setting_of(kind, kv=kv, padding=padding)
    assert relative_error(per_prompt(setting, Eap()), expected_eap(setting)) <= 1e-10


@pytest.mark.parametrize("metric", ["prob_diff", "nll"])
def test_eap_of_every_metric_with_a_gradient(setting_of, metric):
    setting = setting_of("gpt2", padding="right")
    assert relative_error(per_prompt(setting, Eap(), metric), expected_eap(setting, metric)) <= 1e-10


@pytest.mark.parametrize("ablation", ["zero", "mean", "mean_positional"])
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_eap_of_every_ablation(setting_of, kind, ablation):
    padding = "none" if ablation == "mean_positional" else "left"
    setting = setting_of(kind, padding=padding)
    found = per_prompt(setting, Eap(), ablation=ablation)
    assert relative_error(found, expected_eap(setting, ablation=ablation)) <= 1e-10


def expected_eap_ig(setting, metric, steps, rule):
    p = setting.prompts
    return attribution.eap_ig(
        setting.dense, p.clean, p.corrupted, p.mask, setting.ablated("corrupted"),
        lambda logits: setting.harm(metric, logits), steps, rule,
    )  # fmt: skip


@pytest.mark.parametrize(("kind", "kv", "padding"), CASES)
def test_eap_ig_averages_the_gradients_along_the_path_between_the_embeddings(setting_of, kind, kv, padding):
    setting = setting_of(kind, kv=kv, padding=padding)
    found = per_prompt(setting, EapIg(steps=2, rule="midpoint"))
    assert relative_error(found, expected_eap_ig(setting, "logit_diff", 2, "midpoint")) <= 1e-10


@pytest.mark.parametrize("rule", ["left", "right", "midpoint"])
@pytest.mark.parametrize(("kind", "metric"), [("gpt2", "kl_divergence"), ("llama", "nll")])
def test_eap_ig_of_every_rule_to_place_the_points(setting_of, kind, metric, rule):
    setting = setting_of(kind, padding="left")
    found = per_prompt(setting, EapIg(steps=3, rule=rule), metric)
    assert relative_error(found, expected_eap_ig(setting, metric, 3, rule)) <= 1e-10


@pytest.mark.parametrize("kind", models.KINDS)
def test_single_precision_is_within_1e_5(setting_of, kind):
    setting = setting_of(kind, padding="right", dtype="float32")
    assert relative_error(per_prompt(setting, Eap()), expected_eap(setting)) <= 1e-5
