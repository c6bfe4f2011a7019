"""Small runs for the tests of workers, runs and flows: a planted circuit, a handful of items, seconds."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from pipeline import RunConfig
from pipeline.models.toy import toy_path
from pipeline.store.place.where import Place, found


def toy_mapping(output: Place, **changes: Any) -> dict[str, Any]:
    """A config of 1 task x 2 methods x 3 shards (with the baseline 9 items) on a bundled model."""
    mapping = {
        "name": "toy",
        "model": {"name": "toy:planted"},
        "tasks": [{"name": "induction", "count": 12}],
        "methods": [{"name": "eap"}, {"name": "acdc", "threshold": 0.01, "scope": "shard", "as": "acdc"}],
        "shards": {"prompts": 4},
        "evaluate": {"edge_fractions": [0.05, 0.5, 1.0]},
        "output": str(output),
    }
    return mapping | changes


def toy_config(output: Place, **changes: Any) -> RunConfig:
    return RunConfig.from_mapping(toy_mapping(output, **changes))


PAIR = {"clean": [1, 2, 3, 1], "corrupted": [1, 2, 3, 4], "answers": [2], "wrong_answers": [3]}  # toy:planted


def nan_beyond_ten(folder: Path) -> Path:
    """A copy of a bundled model whose positions from the eleventh on are NaN."""
    shutil.copytree(toy_path("toy:planted"), folder)
    weights = load_file(folder / "model.safetensors")
    (positions,) = [name for name in weights if name.endswith("wpe.weight")]
    weights[positions] = weights[positions].copy()
    weights[positions][10:] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def with_more_words(folder: Path, words: int = 16_384) -> Path:
    """A copy of a bundled model with so many tokens that decisions about a divergence are made by bounds; prompts never
    have the new ones, and they are unlikely."""
    shutil.copytree(toy_path("toy:planted"), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": words}))
    weights, rng = load_file(folder / "model.safetensors"), np.random.default_rng(0)
    for name in ("transformer.wte.weight", "lm_head.weight"):
        known = weights[name]
        more = rng.normal(size=(words - len(known), known.shape[1])) * known.std() * 0.1
        weights[name] = np.concatenate([known, more.astype(np.float32)])
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def prompts_of_two_lengths(path: Path) -> Path:
    """A pair of 4 tokens and one of 12."""
    long = {**PAIR, "clean": [1, 2, 3] * 4, "corrupted": [1, 2, 4] * 4, "answers": [1]}
    path.write_text("".join(json.dumps(row) + "\n" for row in (PAIR, long)))
    return path


def nan_in_the_second(folder: Path) -> dict[str, Any]:
    """What of a config makes a run whose first prompt is fine, and whose second gives NaN."""
    return {
        "model": {"name": str(nan_beyond_ten(folder / "model"))},
        "tasks": [{"name": "file", "path": str(prompts_of_two_lengths(folder / "pairs.jsonl"))}],
        "shards": {"prompts": 1},
        "failures": {"tolerate": 1.0},
    }


def score_files(run: Place) -> list[Place]:
    return [*found(run / "node_scores", "**/*.parquet"), *found(run / "scores", "**/*.parquet")]


def content(folder: Path) -> dict[str, str]:
    """Digest of every file below a folder, by relative path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def flip_a_byte(path: Path, at: float = 0.3) -> None:
    data = bytearray(path.read_bytes())
    data[int(len(data) * at)] ^= 0xFF
    path.write_bytes(data)


def items_of(err: str) -> list[str]:
    """The items that a run said it has computed."""
    return [line.split("] ")[1].split()[0] for line in err.splitlines() if line.startswith("[")]
