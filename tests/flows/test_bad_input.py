"""Bad input, through the command line: one line that names file, key or prompt and the mend; nothing is run."""

import json
from contextlib import closing
from pathlib import Path

import pytest

from pipeline.schedule.preparing import prepare
from tests.runs import PAIR, nan_in_the_second, score_files, toy_config


def lines(*rows) -> str:
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)


# What is in pairs.jsonl, and words that the error must hold: where it is and what is wrong.
BAD_PROMPTS = {
    "malformed JSON": (lines(PAIR, '{"clean": '), ["pairs.jsonl:2", "not valid JSON"]),
    "a field that is unknown": (lines({**PAIR, "anwsers": [2]}), ["pairs.jsonl:1", "anwsers", "answers"]),
    "a field that is missing": (lines({"clean": [1], "corrupted": [2]}), ["pairs.jsonl:1", "answers"]),
    "different lengths": (
        lines(PAIR, {**PAIR, "corrupted": [1, 2, 3]}),
        ["pairs.jsonl:2", "4 tokens", "corrupted 3"],
    ),
    "an id that the model lacks": (
        lines({**PAIR, "answers": [99999]}),
        ["pairs.jsonl:1", "99999", "vocabulary"],
    ),
    "no wrong answers": (lines({**PAIR, "wrong_answers": []}), ["pairs.jsonl:1", "wrong_answers"]),
    "an answer that is wrong too": (
        lines({**PAIR, "wrong_answers": [2]}),
        ["pairs.jsonl:1", "both an answer"],
    ),
    "nothing that is corrupted": (
        lines({**PAIR, "corrupted": PAIR["clean"]}),
        ["task pairs", "the same tokens in every prompt"],
    ),
    "no prompts": ("", ["pairs.jsonl", "no prompt pairs"]),
    "a prompt beyond the context": (
        lines({**PAIR, "clean": [1] * 5000, "corrupted": [2] * 5000}),
        ["pairs.jsonl:1", "5000 tokens", "context"],
    ),
}

# Changes of the config, the exit code, and words that the error must hold.
BAD_CONFIGS = {
    "an unknown field": ({"shard": {"prompts": 4}}, 2, ["config.yaml", "'shard'", "did you mean 'shards'?"]),
    "an unknown field within": ({"cluster": {"worker": 2}}, 2, ["'cluster.worker'", "'workers'"]),
    "an unknown method": ({"methods": [{"name": "eap_gi"}]}, 2, ["methods.0.name", "'eap_gi'", "'eap_ig'"]),
    "an unknown task": (
        {"tasks": [{"name": "inductoin"}]},
        2,
        ["tasks.0.name", "'inductoin'", "'induction'"],
    ),
    "an unknown metric": ({"metric": "logit_dif"}, 2, ["metric", "'logit_dif'", "'logit_diff'"]),
    "a method without its gradient": (
        {"methods": [{"name": "eap", "metric": "accuracy"}]},
        2,
        ["methods.0", "gradient"],
    ),
    "KL at the clean point": (
        {"methods": [{"name": "eap", "metric": "kl_divergence"}]},
        2,
        ["methods.0", "eap"],
    ),
    "a value of the wrong kind": ({"shards": {"prompts": "many"}}, 2, ["shards.prompts", "'many'"]),
    "ACDC in 16 bits": (
        {"model": {"name": "toy:planted", "dtype": "bfloat16"}},
        2,
        ["methods.1 (acdc", "bfloat16", "model.dtype: float32"],
    ),
    "edge patching in 16 bits": (
        {"model": {"name": "toy:planted", "dtype": "float16"}, "methods": [{"name": "edge_patching"}]},
        2,
        ["methods.0 (edge_patching)", "float16", "model.dtype: float32"],
    ),
    "edges into a receiver that is not there": (
        {"methods": [{"name": "edge_patching", "receivers": ["a1.h0<q>", "a9.h0<q>"]}]},
        2,
        ["methods (edge_patching-a1.h0_q_a9.h0_q): no receiver 'a9.h0<q>'", "did you mean 'a2.h0<q>'?"],
    ),
    "paths to a receiver that is not there": (
        {"methods": [{"name": "path_patching", "receivers": "m7"}]},
        2,
        ["methods (path_patching-m7): no receiver 'm7'", "did you mean 'm"],
    ),
    "node patching in 16 bits": (
        {"model": {"name": "toy:planted", "dtype": "bfloat16"}, "methods": [{"name": "node_patching"}]},
        2,
        ["methods.0 (node_patching)", "bfloat16", "model.dtype: float32"],
    ),
    "path patching in 16 bits": (
        {"model": {"name": "toy:planted", "dtype": "bfloat16"}, "methods": [{"name": "path_patching"}]},
        2,
        ["methods.0 (path_patching)", "bfloat16", "model.dtype: float32"],
    ),
    "scores by prompt of a method that has none": (
        {"store": {"prompt_scores": ["acdc"]}},
        2,
        ["store.prompt_scores", "acdc has none", "leave it out"],
    ),
    "a bootstrap over nothing": (
        {"aggregate": {"bootstrap": 200}},
        2,
        ["aggregate.bootstrap", "set store.prompt_scores: true"],
    ),
    "a device without workers that have one": (
        {"model": {"name": "toy:planted", "device_map": "cuda:7"}},
        2,
        ["model.device_map", "'cuda:7'", "cluster.gpus_per_worker"],
    ),
    "a file that is missing": ({"tasks": [{"name": "file", "path": "nowhere.jsonl"}]}, 1, ["nowhere.jsonl"]),
    "an unknown model": ({"model": {"name": "./no-such-model"}}, 1, ["'./no-such-model'", "no such folder"]),
    "an unknown bundled model": ({"model": {"name": "toy:plantd"}}, 1, ["toy:plantd", "toy:planted"]),
}


def check(said, code, words):
    assert said.code == code, said
    assert said.out == ""
    assert len(said.err.splitlines()) == 1, said.err
    assert said.err.startswith("error: ")
    assert "Traceback" not in said.err
    for word in words:
        assert word in said.err, said.err


@pytest.mark.parametrize("verb", ["plan", "run"])
@pytest.mark.parametrize("case", BAD_PROMPTS)
def test_bad_prompts(circuits, config_file, tmp_path, verb, case):
    content, words = BAD_PROMPTS[case]
    (tmp_path / "pairs.jsonl").write_text(content)
    config = config_file(tasks=[{"name": "file", "path": str(tmp_path / "pairs.jsonl")}])
    check(circuits(verb, config), 1, words)
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("case", BAD_CONFIGS)
def test_bad_configs(circuits, config_file, tmp_path, monkeypatch, case):
    changes, code, words = BAD_CONFIGS[case]
    monkeypatch.chdir(tmp_path)
    check(circuits("run", config_file(**changes)), code, words)
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("places", ["cuda:77", {"": "cuda:77"}], ids=["one", "mapping"])
def test_a_device_that_the_machine_lacks(circuits, config_file, tmp_path, places):
    """Known only where the model is loaded; the run directory is there by then, and no score."""
    config = config_file(model={"name": "toy:planted", "device_map": places}, cluster={"gpus_per_worker": 1})
    said = circuits("run", config, "--local")
    assert said.code == 1
    assert said.out == ""
    (error,) = [line for line in said.err.splitlines() if line.startswith("error: ")]
    assert "device_map names cuda:77" in error
    assert "this machine has" in error
    assert "Traceback" not in said.err
    assert not list(tmp_path.glob("results/*/scores/**/*.parquet"))


def test_16_bits_are_good_enough_for_attribution(circuits, config_file):
    config = config_file(model={"name": "toy:planted", "dtype": "bfloat16"}, methods=[{"name": "eap"}])
    assert circuits("plan", config).code == 0


def test_answers_of_more_than_one_token(circuits, config_file, tmp_path, shared_data):
    """With a SentencePiece tokenizer, where the first piece of an answer depends on what stands before it."""
    row = {"clean": "One day, Lily went to", "corrupted": "One day, Lily went to", "answers": [" umbrella"]}
    (tmp_path / "pairs.jsonl").write_text(lines({**row, "wrong_answers": [" her"]}))
    config = config_file(
        model={"name": str(shared_data / "models" / "stories260K")},
        tasks=[{"name": "file", "path": str(tmp_path / "pairs.jsonl")}],
    )
    check(
        circuits("run", config), 1, ["pairs.jsonl:1", "' umbrella'", "tokens after this prompt", "one token"]
    )


def test_an_architecture_that_is_not_supported(circuits, config_file, tmp_path):
    folder = tmp_path / "bert"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    said = circuits("run", config_file(model={"name": str(folder)}))
    check(said, 1, ["'bert' is not supported", "gpt2", "llama"])


def test_a_config_that_is_not_there(circuits, tmp_path):
    check(circuits("run", tmp_path / "no.yaml"), 2, ["no.yaml", "no such file"])


def test_a_config_that_is_no_yaml(circuits, tmp_path):
    (tmp_path / "bad.yaml").write_text("name: x\nmodel: {name: ")
    check(circuits("run", tmp_path / "bad.yaml"), 2, ["bad.yaml:", "not valid YAML"])


def test_an_override_of_nothing(circuits, config_file):
    check(circuits("run", config_file(), "--set", "methods.7.steps=1"), 2, ["methods.7.steps"])
    check(circuits("run", config_file(), "--set", "seed"), 2, ["--set seed", "key=value"])


def test_a_run_that_is_alive(circuits, config_file, tmp_path):
    config = config_file()
    with closing(prepare(toy_config(tmp_path / "results"))) as session:
        check(circuits("run", config, "--local"), 1, [str(session.path), "in use by process"])
        check(circuits("resume", session.path, "--local"), 1, ["in use by process"])
        assert "at work: process" in circuits("status", session.path).out
        assert not score_files(session.path)


def test_a_directory_of_another_run(circuits, config_file, tmp_path):
    prepare(toy_config(tmp_path / "results"), tmp_path / "mine").close()
    config = config_file(methods=[{"name": "eap_ig"}])
    check(
        circuits("run", config, "--run-dir", tmp_path / "mine", "--local"), 1, ["mine", "holds another run"]
    )


def test_a_directory_of_something_else(circuits, config_file, tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.tex").write_text("...")
    said = circuits("run", config_file(), "--run-dir", tmp_path / "precious", "--local")
    check(said, 1, ["precious", "thesis.tex"])


def test_a_model_that_yields_nan_on_some_prompts(circuits, config_file, tmp_path):
    """What only shows during the run: no score file for that shard, a record, exit 3; the rest lands."""
    config = config_file(**nan_in_the_second(tmp_path))
    said = circuits("run", config, "--local", "--json")
    assert said.code == 3
    assert said.data["missing"] == ["pairs/baseline/1", "pairs/eap/1", "pairs/acdc/1"]
    run = Path(said.data["path"])
    assert [path.name for path in score_files(run)] == ["shard-00000.parquet"] * 2
    records = circuits("failures", run, "--json").data["records"]
    assert len(records) == 3
    for record in records:
        assert record["failure"] == "input"
        assert "not finite" in record["message"]
        assert record["attempt"] == 1
    assert "Traceback" not in said.err
