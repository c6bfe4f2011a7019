"""Ids of methods: what they name, that they are unique, and whose prompts' scores are kept."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import RunConfig
from pipeline.core.items import ID_PATTERN
from tests.configs import MINIMAL, config, error_of


def test_ids_name_what_differs_from_the_defaults():
    methods = [
        {"name": "eap_ig"},
        {"name": "eap_ig", "steps": 10},
        {"name": "eap", "metric": "prob_diff", "ablation": "mean"},
        {"name": "eap", "as": "mine"},
    ]
    assert list(config(methods=methods).method_ids) == ["eap_ig", "eap_ig-10", "eap-prob_diff-mean", "mine"]


def test_thresholds_are_a_method_each_that_is_searched_together(tmp_path):
    sweep = {"name": "acdc", "thresholds": [0.01, 0.003, 0.1]}
    c = config(methods=[sweep, {"name": "acdc", "threshold": 0.01, "order": "early_first"}, {"name": "eap"}])
    ids = ("acdc-0.01", "acdc-0.003", "acdc-0.1")
    assert list(c.method_ids) == [*ids, "acdc-early_first", "eap"]
    assert [c.method_ids[id_].threshold for id_ in ids] == [0.01, 0.003, 0.1]
    assert {c.sweep_of(id_) for id_ in ids} == {ids}
    assert c.sweep_of("acdc-early_first") == ("acdc-early_first",)
    assert c.sweep_of("eap") == ("eap",)
    (tmp_path / "run.yaml").write_text(c.to_yaml())
    assert RunConfig.load(tmp_path / "run.yaml") == c
    assert list(config(methods=[{**sweep, "as": "mine"}]).method_ids) == [
        "mine-0.01",
        "mine-0.003",
        "mine-0.1",
    ]


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"threshold": 0.1, "thresholds": [0.2]}, "give threshold or thresholds, not both"),
        ({"thresholds": [0.1, 0.2, 0.1]}, "thresholds holds one value twice"),
        ({"thresholds": [0.1, float("inf")]}, "a threshold must be a finite number"),
        ({"thresholds": []}, "methods.0.thresholds"),
    ],
)
def test_thresholds_that_mean_nothing_are_refused(entry, words):
    assert words in error_of({**MINIMAL, "methods": [{"name": "acdc", **entry}]})


def test_methods_are_resolved_with_acdc_keeping_its_metric():
    ids = config(methods=[{"name": "eap"}, {"name": "acdc"}], metric="prob_diff", ablation="zero").method_ids
    assert (ids["eap"].metric, ids["eap"].ablation, ids["eap"].id) == ("prob_diff", "zero", "eap")
    assert (ids["acdc"].metric, ids["acdc"].ablation) == ("kl_divergence", "zero")


def test_metrics_and_ablations_are_those_in_use():
    c = config(methods=[{"name": "eap", "metric": "nll"}, {"name": "acdc", "ablation": "mean"}])
    assert c.metrics == ("kl_divergence", "nll")
    assert c.ablations == ("corrupted", "mean")


def test_derived_ids_that_clash_get_four_digits_each_whatever_their_order():
    a, b = {"name": "file", "path": "one/x.jsonl"}, {"name": "file", "path": "two/x.jsonl"}
    ids = list(config(tasks=[a, b]).task_ids)
    assert len(set(ids)) == 2
    assert all(id_.startswith("x-") and len(id_) == 6 for id_ in ids)
    assert list(config(tasks=[b, a]).task_ids) == ids[::-1]


def test_a_chosen_id_is_kept_when_a_derived_one_clashes():
    c = config(methods=[{"name": "eap", "as": "eap_ig"}, {"name": "eap_ig"}])
    first, second = c.method_ids
    assert first == "eap_ig"
    assert second.startswith("eap_ig-")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"methods": [{"name": "eap"}, {"name": "eap"}]}, "methods.1: id"),
        ({"methods": [{"name": "eap", "as": "x"}, {"name": "eap_ig", "as": "x"}]}, "methods.1: id 'x'"),
        ({"methods": [{"name": "eap", "as": "../x"}]}, "as"),
        ({"methods": [{"name": "eap", "as": ".."}]}, "methods.0: id '..'"),
        ({"methods": [{"name": "eap", "as": "_bad"}]}, "methods.0: id '_bad'"),
        ({"methods": [{"name": "eap", "as": "baseline"}]}, "taken by the pipeline"),
        ({"tasks": [{"name": "induction", "as": "A b"}]}, "tasks.0: id 'A b'"),
        ({"tasks": [{"name": "induction", "as": "t"}, {"name": "ioi", "as": "t"}]}, "tasks.1: id 't'"),
    ],
)
def test_ids_that_cannot_name_a_folder_or_are_taken_are_refused(changes, words):
    assert words in error_of({**MINIMAL, **changes})


@given(st.lists(st.sampled_from([5, 6, 7, 8, 9]), min_size=1, max_size=5, unique=True), st.booleans())
def test_ids_are_unique_and_valid_and_do_not_depend_on_order(steps, backwards):
    methods = [{"name": "eap_ig", "steps": n} for n in steps]
    ids = config(methods=methods[::-1] if backwards else methods).method_ids
    assert len(ids) == len(steps)
    assert all(ID_PATTERN.fullmatch(id_) for id_ in ids)
    assert {m.steps: id_ for id_, m in ids.items()} == {
        m.steps: id_ for id_, m in config(methods=methods).method_ids.items()
    }


def test_prompt_scores_are_kept_of_all_methods_that_have_them_or_of_those_named():
    methods = [{"name": "eap"}, {"name": "acdc"}, {"name": "eap_ig"}, {"name": "node_patching"}]
    assert config(methods=methods).prompt_scores == {}
    kept = config(methods=methods, store={"prompt_scores": True})
    assert kept.prompt_scores == {"eap": "float32", "eap_ig": "float32"}
    kept = config(methods=methods, store={"prompt_scores": "eap_ig", "dtype": "float16"})
    assert kept.prompt_scores == {"eap_ig": "float16"}
    assert RunConfig.from_mapping(yaml.safe_load(kept.to_yaml())) == kept
