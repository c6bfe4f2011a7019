"""Hundreds of inputs that went wrong somewhere: one line each, exit code 1 or 2, and nothing written."""

import json
import random
import shutil
import warnings
from pathlib import Path

import pytest
import yaml

from flows.cli import main
from pipeline.models.toy import toy_path
from tests.runs import content
from tests.security import garble

PAIRS = [
    {"clean": [1, 2, 3, 1], "corrupted": [1, 2, 3, 4], "answers": [2], "wrong_answers": [3]},
    {
        "clean": [4, 2, 3, 4],
        "corrupted": [4, 2, 3, 1],
        "answers": [2],
        "wrong_answers": [3],
        "spans": {"a": [0, 2]},
    },
]
CONFIG = {
    "name": "toy",
    "model": {"name": "model", "dtype": "float32", "device_map": "cpu", "kv": "query_head"},
    "tasks": [
        {"name": "induction", "count": 4, "seed": 1},
        {"name": "file", "path": "pairs.jsonl", "as": "mine"},
    ],
    "methods": [{"name": "eap_ig", "steps": 2}, {"name": "acdc", "threshold": 0.1, "as": "search"}],
    "metric": "logit_diff",
    "ablation": "corrupted",
    "seed": 0,
    "shards": {"prompts": 2},
    "evaluate": {"edge_fractions": [0.1, 1.0]},
    "cluster": {"workers": 1, "batch_size": 2},
    "failures": {"retries": 1, "tolerate": 0.0},
    "output": "results",
}


def write(folder: Path, config=CONFIG, pairs=PAIRS, name="pairs.jsonl") -> None:
    shutil.copytree(toy_path("toy:planted"), folder / "model")
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in pairs))


def a_config(folder, rng):
    write(folder, garble.edited(CONFIG, rng))


def the_text_of_a_config(folder, rng):
    write(folder)
    path = folder / "config.yaml"
    path.write_bytes(garble.garbled(path.read_bytes(), rng))


def a_row(folder, rng):
    write(folder, pairs=garble.edited(PAIRS, rng))


def a_file_of_prompts(folder, rng):
    write(folder)
    path = folder / "pairs.jsonl"
    path.write_bytes(garble.garbled(path.read_bytes(), rng))


def a_table_of_prompts(folder, rng):
    config = {**CONFIG, "tasks": [{"name": "file", "path": "pairs.csv"}]}
    write(folder, config, name="pairs.jsonl")
    cells = [[json.dumps(value) for value in pair.values()][:4] for pair in PAIRS]
    cells[rng.randrange(2)][rng.randrange(4)] = str(rng.choice(garble.VALUES))
    separator = rng.choice([",", ",", ",", ";", "\t", "|"])
    rows = [["clean", "corrupted", "answers", "wrong_answers"], *cells]
    quoted = [separator.join(f'"{cell}"' for cell in row) for row in rows]
    (folder / "pairs.csv").write_text("\n".join(quoted) + "\n")


def a_document_of_a_model(folder, rng):
    write(folder)
    path = folder / "model" / rng.choice(["config.json", "tokenizer.json", "tokenizer_config.json"])
    garble.write_json(path, garble.edited(json.loads(path.read_text()), rng))


def a_file_of_a_model(folder, rng):
    write(folder)
    path = rng.choice(sorted(path for path in (folder / "model").iterdir() if path.name != "circuit.json"))
    rng.choice([path.unlink, lambda: path.write_bytes(garble.garbled(path.read_bytes(), rng))])()


def an_override(folder, rng):
    write(folder)
    where = rng.choice(list(garble.paths(CONFIG)))
    value = rng.choice(garble.VALUES)
    return ["--set", f"{'.'.join(map(str, where))}={json.dumps(value) if rng.random() < 0.7 else value}"]


KINDS = [
    a_config,
    the_text_of_a_config,
    a_row,
    a_file_of_prompts,
    a_table_of_prompts,
    a_document_of_a_model,
    a_file_of_a_model,
    an_override,
]


def complaint(code: int, out: str, err: str, before: dict, after: dict) -> str | None:
    """What is wrong with how a bad input was met, or None. What turned out to be harmless is planned, code 0."""
    if before != after:
        return "something was written"
    if "Traceback" in out + err or "CIRCUITS_DEBUG" in err:
        return "a traceback, or a bug of ours"
    if code == 0:
        return None
    if code not in (1, 2):
        return f"exit code {code}"
    if out or len(err.splitlines()) != 1 or not err.startswith("error: "):
        return "not one line"
    return "a line without an end" if len(err) > 1500 else None


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("count", [12, pytest.param(120, marks=pytest.mark.long)])
def test_bad_inputs_are_one_line_and_nothing_is_written(kind, count, tmp_path, capsys, monkeypatch):
    refused, found = 0, []
    for seed in range(count):
        folder = tmp_path / str(seed)
        folder.mkdir()
        monkeypatch.chdir(folder)
        words = kind(folder, random.Random(f"{kind.__name__} {seed}")) or []
        before = content(folder)
        capsys.readouterr()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                code = main(["plan", "config.yaml", *words])
            except BaseException as error:  # noqa: BLE001 - a panic of Rust is no Exception
                found.append((seed, f"{type(error).__name__}: {error}"[:300]))
                continue
        out, err = capsys.readouterr()
        refused += code != 0
        if problem := complaint(code, out, err, before, content(folder)):
            found.append((seed, problem, code, out[-300:], err[-900:]))
        shutil.rmtree(folder)
    print(f"{kind.__name__}: {count} inputs, {refused} refused, {len(found)} badly")
    for one in found:
        print("  ", one)
    assert found == []
    assert refused >= count // 3
