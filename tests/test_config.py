"""The config: what is accepted, what is refused and how, ids, identity."""

import json
import subprocess
import sys

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.config import RunConfig
from pipeline.core.errors import ConfigError
from pipeline.core.items import ID_PATTERN
from pipeline.methods import METHODS
from pipeline.tasks import TASKS

MINIMAL = {
    "name": "demo",
    "model": {"name": "toy:planted"},
    "tasks": [{"name": "induction"}],
    "methods": [{"name": "eap"}],
}


def config(**changes) -> RunConfig:
    return RunConfig.from_mapping({**MINIMAL, **changes})


def error_of(mapping) -> str:
    with pytest.raises(ConfigError) as caught:
        RunConfig.from_mapping(mapping, where="run.yaml")
    message = str(caught.value)
    assert message.startswith("run.yaml: ")
    assert "\n" not in message
    return message


def test_defaults_are_written_out(tmp_path):
    text = config(methods=[{"name": "acdc"}]).to_yaml()
    written = yaml.safe_load(text)
    assert written["methods"][0]["scope"] == "pooled"
    assert written["shards"] == {"prompts": 100}
    assert written["metric"] == "logit_diff"
    assert written["cluster"] == {
        "address": "local", "workers": 1, "gpus_per_worker": 0.0, "batch_size": 32, "threads": 1,
        "wait_minutes": 0.0, "memory_per_worker": None,
    }  # fmt: skip
    (tmp_path / "run.yaml").write_text(text)
    assert RunConfig.load(tmp_path / "run.yaml") == config(methods=[{"name": "acdc"}])


def test_overrides_and_the_file_name_in_errors(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**MINIMAL, "methods": [{"name": "eap_ig"}]}))
    changed = RunConfig.load(path, ["methods.0.steps=10", "cluster.workers=3", "methods.0.as=x"])
    assert changed.methods[0].steps == 10
    assert changed.cluster.workers == 3
    assert list(changed.method_ids) == ["x"]
    with pytest.raises(
        ConfigError, match=r"mine\.yaml: unknown key 'methods\.0\.stepz'; did you mean 'steps'"
    ):
        RunConfig.load(path, ["methods.0.stepz=10"])


# --- refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"metod": 1}, "unknown key 'metod'; did you mean 'methods'?"),
        ({"model": {"name": "x", "dtyp": "float32"}}, "unknown key 'model.dtyp'; did you mean 'dtype'?"),
        ({"methods": [{"name": "eap_ig", "step": 5}]}, "unknown key 'methods.0.step'; did you mean 'steps'?"),
        ({"tasks": [{"name": "induction", "cont": 5}]}, "unknown key 'tasks.0.cont'; did you mean 'count'?"),
        ({"shards": {"prompt": 5}}, "unknown key 'shards.prompt'; did you mean 'prompts'?"),
        ({"methods": [{"name": "eapig"}]}, "methods.0.name: unknown name 'eapig'; did you mean 'eap_ig'?"),
        (
            {"tasks": [{"name": "inductoin"}]},
            "tasks.0.name: unknown name 'inductoin'; did you mean 'induction'?",
        ),
        ({"methods": [{"steps": 5}]}, "methods.0: needs a name"),
        ({"methods": ["eap"]}, "methods.0"),
        ({"methods": []}, "methods: "),
        ({"tasks": None}, "tasks: "),
        ({"metric": "logit_dif"}, "metric: unknown metric 'logit_dif'; did you mean 'logit_diff'?"),
        ({"ablation": "corupted"}, "ablation: unknown ablation 'corupted'; did you mean 'corrupted'?"),
        (
            {"methods": [{"name": "eap", "metric": "nl"}]},
            "methods.0.metric: unknown metric 'nl'; did you mean 'nll'?",
        ),
        ({"methods": [{"name": "eap", "ablation": "zeros"}]}, "methods.0.ablation: unknown ablation 'zeros'"),
        ({"methods": [{"name": "eap", "metric": "accuracy"}]}, "methods.0 (eap-accuracy): "),
        (
            {"methods": [{"name": "eap", "positions": "from_start"}]},
            "methods.0.positions: from_start is for node_patching; give all, last or the name of a span",
        ),
        (
            {"methods": [{"name": "node_patching", "positions": "The subject"}]},
            "methods.0.positions: 'The subject' is not made of 1 to 40 of a-z, 0-9 and . _ -; give all, last",
        ),
        (
            {"methods": [{"name": "eap_ig", "positions": "-1"}]},
            "methods.0.positions: '-1' has a number as its name; give all, last or the name of a span",
        ),
        ({"methods": [{"name": "edge_patching", "positions": 2}]}, "methods.0.positions: "),
        ({"methods": [{"name": "acdc", "positions": "io"}]}, "unknown key 'methods.0.positions'"),
        ({"methods": [{"name": "eap", "metric": "kl_divergence"}]}, "methods.0 (eap-kl_divergence): "),
        ({"metric": "accuracy"}, "methods.0 (eap): "),
        (
            {"model": {"name": "x", "dtype": "bfloat16"}, "methods": [{"name": "acdc"}]},
            "methods.0 (acdc): acdc in bfloat16 decides by rounding; set model.dtype: float32",
        ),
        ({"model": {"name": "x", "dtype": "float33"}}, "model.dtype: 'float33' is not allowed; did you mean"),
        (
            {"model": {"name": "x", "revision": 1234567}},
            "model.revision: 1234567 is no text; put it in quotes",
        ),
        ({"model": {}}, "model.name is missing"),
        ({"name": "../up"}, "name: "),
        ({"name": ".."}, "name: "),
        ({"name": "a/b"}, "name: "),
        ({"name": "x" * 81}, "name: "),
        ({"seed": -1}, "seed: "),
        ({"seed": "ten"}, "seed: "),
        ({"shards": {"prompts": 0}}, "shards.prompts: "),
        ({"cluster": {"workers": 0}}, "cluster.workers: "),
        ({"cluster": {"gpus_per_worker": 1.5}}, "whole number of devices (got 1.5)"),
        (
            {"model": {"name": "gpt2", "device_map": "cuda:0"}},
            "model.device_map: 'cuda:0' asks for a device and cluster.gpus_per_worker is 0",
        ),
        (
            {"model": {"name": "x", "dtype": "float16"}, "methods": [{"name": "edge_patching"}]},
            "methods.0 (edge_patching): edge_patching in float16 measures rounding; set model.dtype: float32",
        ),
        (
            {"store": {"prompt_score": True}},
            "unknown key 'store.prompt_score'; did you mean 'prompt_scores'?",
        ),
        ({"store": {"prompt_scores": 3}}, "store.prompt_scores: give true, false, or a list of methods' ids"),
        (
            {"store": {"prompt_scores": ["eapp"]}},
            "store.prompt_scores: unknown method 'eapp'; did you mean 'eap'?",
        ),
        ({"store": {"dtype": "float8"}}, "store.dtype: 'float8' is not allowed"),
        (
            {"store": {"prompt_scores": True}, "methods": [{"name": "acdc"}]},
            "store.prompt_scores: no method here scores edges prompt by prompt",
        ),
        (
            {"store": {"prompt_scores": ["acdc"]}, "methods": [{"name": "acdc"}]},
            "store.prompt_scores: acdc has none: it decides over all prompts of a shard together",
        ),
        (
            {"store": {"prompt_scores": ["node_patching"]}, "methods": [{"name": "node_patching"}]},
            "store.prompt_scores: node_patching has none: it scores nodes",
        ),
        (
            {"aggregate": {"bootstrap": 200}},
            "aggregate.bootstrap: draws from every prompt's scores; set store.",
        ),
        ({"aggregate": {"bootstrap": 39}}, "aggregate.bootstrap: fewer than 40 samples"),
        (
            {"aggregate": {"bootstrap_top": 5}},
            "aggregate.bootstrap_top: means something with aggregate.bootstrap",
        ),
        (
            {"store": {"prompt_scores": True}, "aggregate": {"bootstrap": 40, "bootstrap_top": 200_001}},
            "aggregate.bootstrap_top: ",
        ),
        ({"failures": {"tolerate": 2}}, "failures.tolerate"),
        ({"evaluate": {"edge_fractions": [0.1, 0]}}, "evaluate.edge_fractions.1: "),
        ({"evaluate": {"edge_fractions": [float("nan")]}}, "evaluate.edge_fractions.0: "),
        ({"output": "gs://bucket/x"}, "give a folder, or s3://bucket/folder"),
    ],
)
def test_what_cannot_be_meant_is_one_line_with_the_key_and_the_mend(changes, words):
    assert words in error_of({**MINIMAL, **changes})


def test_several_mistakes_are_told_together_and_a_consequence_is_not_counted():
    line = error_of({**MINIMAL, "metod": 1, "seed": -1})
    assert "unknown key 'metod'" in line
    assert "seed: " in line
    many = error_of({**MINIMAL, "a": 1, "b": 1, "c": 1, "d": 1})
    assert many.endswith("(and 1 more)")
    assert "more" not in error_of({**MINIMAL, "methods": [{"name": "eapig"}]})


def test_nothing_changes_a_config():
    with pytest.raises(ValidationError):
        config().seed = 3
    with pytest.raises(ValidationError):
        config().cluster.workers = 3


rubbish = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@given(rubbish, st.sampled_from(sorted({*RunConfig.model_fields, "x"})))
def test_any_rubbish_under_any_key_is_accepted_or_one_line(value, key):
    try:
        config(**{key: value})
    except ConfigError as error:
        assert "\n" not in str(error)  # noqa: PT017 - both outcomes are fine, the line is not


# --- ids ---------------------------------------------------------------------------------------------------


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


# --- identity ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "other"},
        {"evaluate": {"edge_fractions": [0.5]}},
        {"cluster": {"workers": 9, "batch_size": 1}},
        {"store": {"prompt_scores": True, "dtype": "float16"}},
        {"store": {"prompt_scores": True}, "aggregate": {"bootstrap": 200}},
        {"failures": {"retries": 0}},
        {"output": "elsewhere"},
        {"model": {"name": "toy:planted", "device_map": "cpu"}},
    ],
)
def test_how_and_where_are_not_identity(changes):
    assert config(**changes).identity() == config().identity()


@pytest.mark.parametrize(
    "changes",
    [
        {"metric": "nll"},
        {"ablation": "zero"},
        {"seed": 1},
        {"shards": {"prompts": 7}},
        {"methods": [{"name": "eap_ig"}]},
        {"tasks": [{"name": "induction", "count": 7}]},
        {"model": {"name": "toy:planted", "dtype": "float64"}},
        {"model": {"name": "toy:planted", "kv": "kv_head"}},
    ],
)
def test_what_changes_scores_is_identity(changes):
    assert config(**changes).identity() != config().identity()
    json.dumps(config(**changes).identity())


def test_a_metric_written_out_is_the_metric_inherited():
    written = config(methods=[{"name": "eap", "metric": "logit_diff", "as": "eap"}])
    assert written.identity() == config().identity()


def test_an_extension_adds_tasks_and_methods_and_renames_none():
    base = config(tasks=[{"name": "file", "path": "one/x.jsonl"}])
    other = config(
        tasks=[{"name": "file", "path": "one/x.jsonl"}, {"name": "induction"}], methods=[{"name": "acdc"}]
    )
    both = base.extended_by(other)
    assert list(both.task_ids) == ["x", "induction"]
    assert list(both.method_ids) == ["eap", "acdc"]
    assert RunConfig.from_mapping(yaml.safe_load(both.to_yaml())) == both
    with pytest.raises(ConfigError, match="seed"):
        base.extended_by(config(seed=3))
    with pytest.raises(ConfigError, match="another id"):
        base.extended_by(config(methods=[{"name": "eap_ig", "as": "eap"}]))


# --- round trips -------------------------------------------------------------------------------------------

configs = st.fixed_dictionaries(
    {
        "name": st.from_regex(r"[a-zA-Z0-9][a-zA-Z0-9._-]{0,20}", fullmatch=True),
        "model": st.fixed_dictionaries(
            {"name": st.sampled_from(["gpt2", "toy:planted", "on", "1e3", "null", "é/ü"])},
            optional={
                "dtype": st.sampled_from(["float32", "float64"]),
                "revision": st.sampled_from(["main", "0123456", "1e5", "true"]),
                "kv": st.sampled_from(["query_head", "kv_head"]),
            },
        ),
        "tasks": st.just([{"name": "induction", "as": "123"}, {"name": "file", "path": "a b: c.jsonl"}]),
        "methods": st.lists(
            st.sampled_from(
                [
                    {"name": "eap"},
                    {"name": "eap_ig", "steps": 3},
                    {"name": "acdc", "threshold": 1e-5},
                    {"name": "acdc", "threshold": 0.1 + 0.2, "as": "1e3"},
                    {"name": "eap", "metric": "nll"},
                ]
            ),
            min_size=1,
            unique_by=str,
        ),
    },
    optional={
        "seed": st.integers(0, 2**40),
        "evaluate": st.fixed_dictionaries(
            {"edge_fractions": st.lists(st.floats(0, 1, exclude_min=True), max_size=4)}
        ),
        "failures": st.fixed_dictionaries({"tolerate": st.floats(0, 1)}),
        "store": st.fixed_dictionaries({"dtype": st.sampled_from(["float32", "float16"])}),
        "output": st.sampled_from(["results", "a/b c", "~", "1"]),
    },
)


@given(configs)
def test_a_config_is_the_same_after_writing_and_reading(mapping):
    one = RunConfig.from_mapping(mapping)
    again = RunConfig.from_mapping(yaml.safe_load(one.to_yaml()))
    assert again == one
    assert again.to_yaml() == one.to_yaml()
    assert again.identity() == one.identity()
    assert list(again.method_ids) == list(one.method_ids)


def test_the_schema_names_every_method_task_and_key():
    schema = RunConfig.json_schema()
    text = json.dumps(schema)
    for kind in (*METHODS, *TASKS):
        assert f'"{kind.model_fields["name"].default}"' in text
    assert set(schema["properties"]) == set(RunConfig.model_fields)
    assert schema["additionalProperties"] is False
    assert '"as"' in text


def test_config_loads_without_torch():
    heavy = "{'torch', 'ray', 'prefect', 'transformers'}"
    code = f"import sys, pipeline.config; print(sorted({heavy} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
