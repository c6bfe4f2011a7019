"""ACDC with `scores: bounded` keeps the edges of an ACDC that runs one full forward per edge."""

import numpy as np
import pytest

from pipeline.config.ids import parameters
from pipeline.core.errors import ConfigError
from pipeline.core.questions import Step
from pipeline.engine import bounds
from pipeline.methods import Acdc
from pipeline.methods.collective import LocalWorkers
from pipeline.methods.work import Work
from tests.slowly import slow

FAMILIES = ("gpt2", "gpt_neox", "qwen2", "olmo2", "cohere_qk", "granite")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(bounds, "_LIKELY", 6)
    monkeypatch.setattr(bounds, "_FAR", 3)
    monkeypatch.setattr(bounds, "_WORTH", 2)


def bounded(setting, batches=None, threshold=0.01, **options):
    method = Acdc(threshold=threshold, scores="bounded", **options)
    return method.score(setting.model, batches or [setting.batch])


@pytest.mark.parametrize("kind", ["llama", *slow("gemma2", *FAMILIES)])
def test_kept_edges_are_those_of_naive_acdc(setting_of, naive, kind):
    setting = setting_of(kind, padding="left")
    for threshold in (1e-3, 1e-2, 1e-1):
        found = bounded(setting, threshold=threshold)
        exact = Acdc(threshold=threshold).score(setting.model, [setting.batch])
        kept, _ = naive(setting, "kl_divergence", threshold)
        np.testing.assert_array_equal(found.kept, kept)
        np.testing.assert_array_equal(found.kept, exact.kept)
        off, error = np.nan_to_num(np.abs(found.score - exact.score)), np.nan_to_num(found.error)
        assert (off <= error + 1e-9).all()
        assert not error[found.kept].any()
        assert found.facts["final_metric"] == pytest.approx(exact.facts["final_metric"], rel=1e-9)


def test_a_table_says_of_every_bounded_score_how_far_off_it_is(setting_of):
    found = bounded(setting_of("llama", padding="left"), threshold=0.1)
    assert 0 < found.facts["bounded_tests"] < found.facts["tests"]
    assert found.facts["bounded_tests"] == np.isfinite(found.to_frame()["score_error"]).sum()
    assert found.facts["largest_error"] > 0


@pytest.mark.parametrize("size", [*slow(2), 1])
def test_parts_that_disagree_measure_exactly_and_decide_alike(setting_of, naive, size):
    setting = setting_of("llama", padding="left")
    whole, _ = naive(setting, "kl_divergence", 0.003)
    np.testing.assert_array_equal(bounded(setting, setting.batch.split(size), 0.003).kept, whole)


@pytest.mark.slow
def test_a_resample_keeps_what_it_keeps_by_exact_scores(setting_of, naive):
    setting = setting_of("llama", padding="left", lengths=(6, 3, 5, 6, 4))
    drawn = np.random.default_rng([5, 1]).integers(5, size=5)
    for threshold in (1e-3, 1e-2, 1e-1):
        found = bounded(setting, setting.batch.split(2), threshold, resample=1)
        kept, _ = naive(setting, "kl_divergence", threshold, drawn=drawn)
        np.testing.assert_array_equal(found.kept, kept)


def test_a_sweep_keeps_what_each_threshold_keeps_alone(setting_of):
    setting = setting_of("gpt2", padding="left")
    together = Acdc(scores="bounded").sweep(setting.model, [setting.batch], (0.001, 0.01, 0.1))
    for threshold, found in together.items():
        alone = Acdc(threshold=threshold).score(setting.model, [setting.batch])
        np.testing.assert_array_equal(found.kept, alone.kept)


@pytest.mark.parametrize("threshold", [*slow(0.03), 0.1])
def test_a_search_that_was_broken_off_ends_in_the_same_numbers(setting_of, threshold):
    setting = setting_of("llama", padding="left")
    method = Acdc(threshold=threshold, scores="bounded").ready(setting.model, None, None)
    work = Work(setting.model, setting.batch.split(2), method.metric, method.ablation)

    def steps(past):
        drive = method.drive({"": method}, setting.model.graph, LocalWorkers(method.part(work)), "float64")
        return [taken.record for taken in drive.steps(past)]

    whole = steps({})
    assert any(error > 0 for record in whole for one in record["decided"] for error in one["error"])
    for end in (1, len(whole) // 2, len(whole) - 1):
        assert steps({record["receiver"]: record for record in whole[:end]}) == whole


def test_only_a_divergence_has_bounds():
    with pytest.raises(ConfigError, match="scores: bounded knows kl_divergence, not logit_diff"):
        Acdc(scores="bounded", metric="logit_diff").check("float32")


def test_exact_scores_are_written_down_as_before_bounds_were_there():
    assert not {"scores", "resample", "resamples"} & {*parameters(Acdc())}
    assert parameters(Acdc(scores="bounded"))["scores"] == "bounded"
    one = {"receiver": 0, "state": 0, "into": 1, "thresholds": (0.1,), "senders": (0,), "kept": (True,)}
    one |= {"delta": (0.5,), "std": (0.0,), "values": (0.1,), "guarded": 0}
    for more in ({}, {"error": (0.25,)}):
        record = {"receiver": 0, "decided": ({**one, **more},), "evaluations": 1, "rounds": 1}
        assert Step.from_dict(record).to_dict() == record
