"""The config: defaults, overrides, identity, extension, and the way to YAML and back."""

import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import RunConfig
from pipeline.core.errors import ConfigError
from pipeline.methods import METHODS
from pipeline.tasks import TASKS
from tests.configs import MINIMAL, config


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
        {"model": {"name": "toy:planted", "cuda_graphs": True}},
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
