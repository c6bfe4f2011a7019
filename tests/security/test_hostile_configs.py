"""Configs, prompts and model folders that mean harm: one line that says where and what, and nothing happens."""

import json
import shutil
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pipeline.models.toy import toy_path
from tests.runs import PAIR
from tests.security.conftest import Touch, refused

GOOD = (
    "name: toy\nmodel: {name: 'toy:planted'}\ntasks: [{name: induction, count: 4}]\nmethods: [{name: eap}]\n"
)


def merges(levels: int) -> str:
    lines = ["x0: &x0 {k: 1}"]
    lines += [f"x{i}: &x{i}\n  <<: [{', '.join([f'*x{i - 1}'] * 10)}]" for i in range(1, levels)]
    return "\n".join(lines)


# The text of a config, and words of the error.
TEXTS = {
    "aliases that stand for a billion lists": (
        "a0: &a0 [x]\n" + "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)),
        ["config.yaml", "aliases", "write it out"],
    ),
    "merges that double at every line": (merges(30), ["config.yaml:3", "'<<'", "write the keys out"]),
    "a list within 100,000 lists": ("name: " + "[" * 100_000, ["config.yaml", "nested too deeply"]),
    "a key given twice": (GOOD + "name: other\n", ["config.yaml:5", "'name' is given twice"]),
    "a Python object": (
        "name: !!python/object/apply:os.system ['touch executed']",
        ["config.yaml:1", "not valid YAML"],
    ),
    "a NUL byte": ("name: 'a\0b'", ["config.yaml", "not valid YAML"]),
    "an escape sequence as a key": (GOOD + '"\\e[2J": 1\n', ["config.yaml", "unknown key"]),
    "keys that are no words": (GOOD + "{1: 2}: 3\n", ["config.yaml"]),
    "2,000 methods": (
        GOOD.replace("[{name: eap}]", "[" + "{name: eap}," * 2_000 + "]"),
        ["config.yaml", "methods", "1000"],
    ),
}


@pytest.mark.parametrize("case", TEXTS)
def test_texts_of_configs(circuits, place, monkeypatch, case):
    monkeypatch.chdir(place.path)
    text, words = TEXTS[case]
    (place.path / "config.yaml").write_text(text)
    refused(circuits("plan", place.path / "config.yaml"), [2], words)
    assert not (place.path / "results").exists()


def test_a_config_of_100_megabytes(circuits, place):
    path = place.path / "config.yaml"
    with path.open("w") as file:
        file.write(GOOD)
        file.truncate(100_000_000)
    refused(circuits("plan", path), [2], ["config.yaml", "over 500,000 bytes"])


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no such device here")
def test_a_config_without_an_end(circuits, place):
    refused(circuits("plan", "/dev/zero"), [2], ["/dev/zero", "over 500,000 bytes"])


# Changes of the config, and words of the error.
VALUES = {
    "a name that climbs": ({"name": "../../etc/cron.d/x"}, ["name", "should match"]),
    "a name that is a path": ({"name": "/tmp/x"}, ["name", "should match"]),
    "a name of two lines": ({"name": "toy\nrm -rf"}, ["name", "should match"]),
    "a name that looks like another": ({"name": "t\u043ey"}, ["name", "should match"]),
    "a name without an end": ({"name": "x" * 100_000}, ["name", "should match"]),
    "a task that climbs": (
        {"tasks": [{"name": "induction", "as": "../../x"}]},
        ["tasks.0", "'../../x'", "a-z 0-9", "as: ..."],
    ),
    "a task of two dots": ({"tasks": [{"name": "induction", "as": ".."}]}, ["tasks.0", "'..'"]),
    "a task with a NUL": ({"tasks": [{"name": "induction", "as": "a\0b"}]}, ["tasks.0", "a-z 0-9"]),
    "a task that is hidden": ({"tasks": [{"name": "induction", "as": ".lock"}]}, ["tasks.0", "'.lock'"]),
    "a method that is a path": ({"methods": [{"name": "eap", "as": "/etc/x"}]}, ["methods.0", "'/etc/x'"]),
    "a method of two lines": ({"methods": [{"name": "eap", "as": "a\n"}]}, ["methods.0", "a-z 0-9"]),
    "a method in wide letters": ({"methods": [{"name": "eap", "as": "\uff45ap"}]}, ["methods.0", "a-z 0-9"]),
    "a method without an end": ({"methods": [{"name": "eap", "as": "x" * 9999}]}, ["methods.0", "up to 80"]),
    "a method of the pipeline": ({"methods": [{"name": "eap", "as": "baseline"}]}, ["methods.0", "taken"]),
    "a method from somewhere else": (
        {"methods": [{"name": "my_pkg.mod:Method"}]},
        ["methods.0.name", "unknown name 'my_pkg.mod:Method'; Python from elsewhere", "known: acdc, "],
    ),
    "a task from somewhere else": (
        {"tasks": [{"name": "os:system"}]},
        ["tasks.0.name", "unknown name 'os:system'; Python from elsewhere", "known: acronym, addition, "],
    ),
    "a model with an escape sequence": ({"model": {"name": "\x1b]0;x\x07gpt2"}}, ["model.name", "not seen"]),
    "a file of two lines": ({"tasks": [{"name": "file", "path": "a\nb.jsonl"}]}, ["path", "not seen"]),
    "10^12 prompts": ({"tasks": [{"name": "induction", "count": 10**12}]}, ["tasks.0.count", "1000000"]),
    "10^9 steps": ({"methods": [{"name": "eap_ig", "steps": 10**9}]}, ["methods.0.steps", "10000"]),
    "10^9 workers": ({"cluster": {"workers": 10**9}}, ["cluster.workers"]),
    "10^9 retries": ({"failures": {"retries": 10**9}}, ["failures.retries", "1000"]),
    "a seed of 300 digits": ({"seed": 10**300}, ["seed", "less than"]),
    "memory without an end": (
        {"cluster": {"memory_per_worker": float("inf")}},
        ["memory_per_worker", "finite"],
    ),
    "a share that is no number": ({"failures": {"tolerate": float("nan")}}, ["failures.tolerate"]),
    "10,000 circuits": ({"evaluate": {"edge_fractions": [0.5] * 10_000}}, ["edge_fractions", "1000"]),
    "a bundled model that climbs": ({"model": {"name": "toy:../../x"}}, ["toy:../../x", "toy:planted"]),
}


@pytest.mark.parametrize("case", VALUES)
def test_values_of_configs(circuits, config_file, place, monkeypatch, case):
    monkeypatch.chdir(place.path)
    changes, words = VALUES[case]
    refused(circuits("run", config_file(**changes), "--local"), [1, 2], words)
    assert not (place.path / "results").exists()


@pytest.mark.parametrize("output", ["results\0", "\u202estluser", "a\nb"])
def test_an_output_that_is_no_line(circuits, config_file, place, output):
    refused(
        circuits("run", config_file(), "--set", f"output={json.dumps(output)}"), [2], ["output", "not seen"]
    )


# --- prompts -----------------------------------------------------------------------------------------------


def row(**changes) -> str:
    return json.dumps(PAIR | changes)


# What is in pairs.jsonl, and words of the error.
PROMPTS = {
    "a line of 10 megabytes": (row(clean="x" * 10_000_000), ["pairs.jsonl:1", "10,000,000", "shorten it"]),
    "a list of 2 million ids": (row(clean=[1] * 2_000_000), ["pairs.jsonl:1", "2,000,000", "shorten it"]),
    "a list within 100,000 lists": (
        '{"clean": ' + "[" * 100_000 + "]" * 100_000 + "}",
        ["pairs.jsonl:1", "nested too deeply"],
    ),
    "an id that is no number": ('{"clean": [NaN]}', ["pairs.jsonl:1", "NaN"]),
    "an id without an end": ('{"clean": [Infinity]}', ["pairs.jsonl:1", "Infinity"]),
    "an id of 5,000 digits": ('{"clean": [' + "9" * 5000 + "]}", ["pairs.jsonl:1", "not valid JSON"]),
    "a field given twice": ('{"clean": [1], "clean": [2]}', ["pairs.jsonl:1", "'clean' is given twice"]),
    "half a character": (row(clean="\ud800"), ["pairs.jsonl:1", "half a character"]),
    "half an answer": (row(answers=["\udc00"]), ["pairs.jsonl:1", "half a character"]),
    "a field of escape sequences": (row(**{"\x1b[2J": 1}), ["pairs.jsonl:1", "unknown field"]),
}


@pytest.mark.parametrize("case", PROMPTS)
def test_prompts(circuits, config_file, place, case):
    text, words = PROMPTS[case]
    (place.path / "pairs.jsonl").write_text(text)
    config = config_file(tasks=[{"name": "file", "path": str(place.path / "pairs.jsonl")}])
    refused(circuits("run", config, "--local"), [1], words)
    assert not (place.path / "results").exists()


@pytest.mark.parametrize("name", ["pairs.jsonl", "pairs.csv", "pairs.parquet", "pairs.pkl"])
def test_a_pickle_in_the_place_of_prompts(circuits, config_file, place, name):
    (place.path / name).write_bytes(place.bomb)
    config = config_file(tasks=[{"name": "file", "path": str(place.path / name)}])
    refused(circuits("plan", config), [1], [name])


@pytest.mark.parametrize(
    ("name", "wrapped"),
    [
        ("scores.pkl", "bare"),
        ("graph.pt", "in an archive"),
        ("graph.pt", "packed"),
        ("subgraph.pth", "more than it holds"),
    ],
)
def test_a_pickle_in_the_place_of_a_circuit(circuits, config_file, place, name, wrapped):
    path, words = place.path / name, ["never loaded"]
    if wrapped == "bare":
        path.write_bytes(place.bomb)
    elif wrapped == "in an archive":
        torch.save({"edges": Touch(place.executed)}, path)
    elif wrapped == "packed":
        torch.save({"edges": torch.zeros(10)}, place.path / "plain")
        with (
            zipfile.ZipFile(place.path / "plain") as plain,
            zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new,
        ):
            for part in plain.namelist():
                new.writestr(part, plain.read(part))
        words = ["larger than the file"]
    else:
        torch.save({"edges": torch.zeros(1).expand(10**9)}, path)
        words = ["has a tensor of the kind"]
    config = config_file(methods=[{"name": "file", "path": str(path)}])
    refused(circuits("run", config, "--local"), [2], [name, *words])
    assert not (place.path / "results").exists()


def python_extension_schema(bomb: bytes) -> pa.Schema:
    """A schema whose metadata asks Arrow to unpickle a type, as old versions did."""
    metadata = {"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": bomb}
    return pa.schema([pa.field("clean", pa.binary(), metadata=metadata)])


def test_a_parquet_file_that_asks_to_be_unpickled(circuits, config_file, place):
    schema = python_extension_schema(place.bomb)
    pq.write_table(pa.table([[b"x"]], schema=schema), place.path / "pairs.parquet")
    config = config_file(tasks=[{"name": "file", "path": str(place.path / "pairs.parquet")}])
    refused(circuits("plan", config), [1], ["pairs.parquet:1", "'clean'"])


def test_a_parquet_file_of_10_million_rows_in_a_few_kilobytes(circuits, config_file, place):
    column = pa.DictionaryArray.from_arrays(pa.array(bytes(10_000_000), pa.int8()), ["x"])
    pq.write_table(pa.table({"clean": column}), place.path / "pairs.parquet")
    assert (place.path / "pairs.parquet").stat().st_size < 30_000
    config = config_file(tasks=[{"name": "file", "path": str(place.path / "pairs.parquet")}])
    refused(circuits("plan", config), [1], ["pairs.parquet", "claims 10,000,000 rows", "write it again"])


def test_a_parquet_file_of_text_that_unpacks_to_gigabytes(circuits, config_file, place):
    table = pa.table({"clean": ["a" * 30_000_000] * 2})
    pq.write_table(table, place.path / "pairs.parquet", compression="zstd", use_dictionary=False)
    config = config_file(tasks=[{"name": "file", "path": str(place.path / "pairs.parquet")}])
    refused(circuits("plan", config), [1], ["pairs.parquet", "bytes", "write it again"])


# --- models ------------------------------------------------------------------------------------------------


def toy_with(place, **changes):
    """A copy of the bundled model whose config.json has changes; None removes a key."""
    folder = place.path / "model"
    shutil.copytree(toy_path("toy:planted"), folder)
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    return folder


def code_in(folder, place) -> None:
    """modeling.py, which leaves a trace when it is imported."""
    (folder / "modeling.py").write_text(
        f"open({str(place.executed)!r}, 'w')\nclass Config: pass\nclass Model: pass\n"
    )


CONFIG_JSONS = {
    "10^9 layers": ({"n_layer": 10**9}, ["config.json", "edges"]),
    "no heads": ({"n_head": 0}, ["config.json", "heads"]),
    "heads that are words": ({"n_head": "many"}, ["model"]),
    "a kernel from the hub": (
        {"attn_implementation": "someone/kernel"},
        ["attn_implementation", "'someone/kernel'", "remove that key"],
    ),
    "experts from the hub": ({"experts_implementation": "someone/kernel"}, ["experts_implementation"]),
}


@pytest.mark.parametrize("case", CONFIG_JSONS)
def test_config_json(circuits, config_file, place, case):
    changes, words = CONFIG_JSONS[case]
    folder = toy_with(place, **changes)
    refused(circuits("plan", config_file(model={"name": str(folder)})), [1], words)


@pytest.mark.parametrize(
    ("text", "words"),
    [("[" * 100_000, ["config.json"]), ("[]", ["config.json"]), ("\0", ["config.json"])],
    ids=["nested", "a list", "no JSON"],
)
def test_a_config_json_of_nonsense(circuits, config_file, place, text, words):
    folder = toy_with(place)
    (folder / "config.json").write_text(text)
    refused(circuits("plan", config_file(model={"name": str(folder)})), [1], words)


def test_a_model_that_brings_its_own_code(circuits, config_file, place):
    folder = toy_with(place, model_type="mine", auto_map={"AutoConfig": "modeling.Config"})
    code_in(folder, place)
    said = circuits("plan", config_file(model={"name": str(folder)}))
    refused(said, [1], ["runs its own code", "model.trust_remote_code: true"])


@pytest.mark.slow
def test_code_beside_a_known_architecture_is_not_looked_at(circuits, config_file, place):
    """The stock class is there: the folder is the model that its weights say, whatever it maps."""
    auto_map = {"AutoConfig": "modeling.Config", "AutoModelForCausalLM": "modeling.Model"}
    folder = toy_with(place, auto_map=auto_map)
    code_in(folder, place)
    config = config_file(
        model={"name": str(folder)}, tasks=[{"name": "induction", "count": 2}], methods=[{"name": "eap"}]
    )
    said = circuits("run", config, "--local")
    assert said.code in (0, 1), said
    assert "Traceback" not in said.err


def test_a_tokenizer_that_brings_its_own_code(circuits, config_file, place):
    folder = toy_with(place)
    code_in(folder, place)
    mapped = {"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": ["modeling.Model", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(mapped))
    said = circuits("plan", config_file(model={"name": str(folder)}))
    assert said.code in (0, 1), said  # a stock tokenizer, or none; never that one
    assert "Traceback" not in said.err


def test_weights_that_are_a_pickle(circuits, config_file, place):
    folder = toy_with(place)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(place.bomb)
    said = circuits("run", config_file(model={"name": str(folder)}), "--local")
    assert said.code == 1
    assert said.out == ""
    (error,) = [line for line in said.err.splitlines() if line.startswith("error: ")]
    assert "does not load" in error
    assert "safetensors" in error
    assert "Traceback" not in said.err


@pytest.mark.parametrize("content", [b"", b"PK\3\4", b"\xff" * 100], ids=["empty", "zip", "a header of 2^64"])
def test_safetensors_that_are_none(circuits, config_file, place, content):
    folder = toy_with(place)
    (folder / "model.safetensors").write_bytes(content)
    said = circuits("run", config_file(model={"name": str(folder)}), "--local")
    assert said.code == 1
    (error,) = [line for line in said.err.splitlines() if line.startswith("error: ")]
    assert str(folder) in error
    assert "does not load" in error


def test_an_adapter_that_names_another_model(circuits, config_file, place):
    folder = toy_with(place)
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "someone/else"}')
    refused(circuits("plan", config_file(model={"name": str(folder)})), [1], ["adapter", "merge it"])
