"""Configs as people write them: the same config, the same run."""

import jsonschema
import numpy as np
import pytest

from pipeline import Circuit, RunConfig, evaluate, load_model
from pipeline.core.errors import ConfigError
from pipeline.methods import EdgePatching
from pipeline.tasks import Induction
from tests.runs import toy_mapping

PLAIN = {
    "name": "short",
    "model": {"name": "toy:trained", "dtype": "bfloat16"},
    "tasks": [{"name": "ioi"}, {"name": "file", "path": "pairs.jsonl"}],
    "methods": [{"name": "eap_ig", "metric": "kl_divergence"}, {"name": "eap"}],
    "ablation": "mean_positional",
}
SHORT = {
    "name": "short",
    "model": {"name": "toy:trained", "dtype": "bf16"},
    "tasks": ["IOI", "pairs.jsonl"],
    "methods": [{"name": "EAP-IG", "metric": "kl"}, "EAP"],
    "ablation": "mean-positional",
}


def test_other_spellings_are_the_same_config_and_the_same_identity():
    short, plain = RunConfig.from_mapping(SHORT), RunConfig.from_mapping(PLAIN)
    assert short == plain
    assert short.identity() == plain.identity()
    assert short.to_yaml() == plain.to_yaml()


def test_a_model_is_its_name_and_one_task_or_method_a_list_of_it():
    short = RunConfig.from_mapping({"name": "n", "model": "toy:trained", "tasks": "ioi", "methods": "eap"})
    plain = {
        "name": "n",
        "model": {"name": "toy:trained"},
        "tasks": [{"name": "ioi"}],
        "methods": [{"name": "eap"}],
    }
    assert short == RunConfig.from_mapping(plain)


def test_overrides_reach_into_what_was_short(tmp_path):
    path = tmp_path / "short.yaml"
    path.write_text("name: n\nmodel: toy:trained\ntasks: [ioi]\nmethods: [eap-ig]\n")
    overrides = ["model.dtype=fp64", "methods.0.steps=3", "tasks.0.count=7", "metric=nll"]
    config = RunConfig.load(path, overrides)
    assert (config.model.dtype, config.methods[0].steps, config.tasks[0].count) == ("float64", 3, 7)
    assert RunConfig.load(path, ["methods.0=EAP"]).methods[0].name == "eap"


def test_what_was_given_stays_as_it_was():
    given = {**SHORT, "methods": [dict(SHORT["methods"][0])]}
    RunConfig.from_mapping(given)
    assert given["methods"] == [SHORT["methods"][0]]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"model": {"name": "x", "dtype": "bf17"}},
            "model.dtype: 'bf17' is not allowed; known: bfloat16",
        ),
        ({"methods": ["eap_gi"]}, "methods.0.name: unknown name 'eap_gi'; did you mean 'eap_ig'?"),
        ({"methods": [3]}, "methods.0"),
        ({"tasks": "nothing"}, "tasks.0.name: unknown name 'nothing'"),
        ({"methods": ["my_own"]}, "path_patching; what a package adds is known where that is installed"),
        ({"metric": "kldivergenc"}, "metric: unknown metric 'kldivergenc'; did you mean 'kl_divergence'?"),
        ({"model": ""}, "model.name"),
    ],
)
def test_what_is_no_spelling_of_anything_is_refused_where_it_stands(tmp_path, changes, words):
    with pytest.raises(ConfigError) as raised:
        RunConfig.from_mapping(toy_mapping(tmp_path, **changes))
    assert words in str(raised.value)


def test_the_schema_for_editors_admits_names_alone():
    short = {"name": "n", "model": "toy:trained", "tasks": ["ioi"], "methods": ["eap", {"name": "eap_ig"}]}
    jsonschema.validate(short, RunConfig.json_schema())


@pytest.mark.parametrize(("metric", "ablation"), [("KL", "resample"), ("logit-difference", "Zero")])
def test_names_are_understood_in_python_as_in_configs(metric, ablation):
    model = load_model("toy:planted", dtype="fp32")
    batch = model.batch(Induction(count=2).pairs(model.tokenizer, 0))
    known = {"KL": "kl_divergence"}.get(metric, "logit_diff"), {"Zero": "zero"}.get(ablation, "corrupted")
    one, two = (
        EdgePatching().score(model, [batch], metric=m, ablation=a).score
        for m, a in ((metric, ablation), known)
    )
    np.testing.assert_array_equal(one, two)
    circuit = Circuit.from_scores(EdgePatching().score(model, [batch]), top=9)
    rows = [evaluate(circuit, model, [batch], m, a) for m, a in ((metric, ablation), known)]
    assert rows[0].equals(rows[1])
    with pytest.raises(ConfigError, match="unknown metric 'nothing'"):
        EdgePatching().score(model, [batch], metric="nothing")
