"""What planning costs: rows of a file of pairs, memory for each of them, and `status` of a run of many items.

Long texts stand beside their floor, what the tokenizer alone takes for them; they are read word by word, for less.

Knows configs and the bundled model. The byte-level BPE tokenizer is trained here, on the sentences that it reads.
"""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from pipeline.config import RunConfig
from pipeline.core.prompts import PromptPair
from pipeline.core.scores import EdgeScores
from pipeline.models.load import load_tokenizer, resolve_model
from pipeline.models.tokens import CHUNK
from pipeline.schedule import Plan, make_plan
from pipeline.store.run import schema
from pipeline.store.run.opened import open_run
from pipeline.tasks import Ioi
from tests.benchmarks.measure import cpu_seconds, peak_bytes, row, wall_seconds

ROWS = 20_000
MANY = 100_000
ITEMS = 2_000


def planning_rows(folder: Path) -> list[dict[str, Any]]:
    """Rows a second with two tokenizers, bytes a row, milliseconds an item."""
    pairs = Ioi(count=2000).pairs(load_tokenizer(resolve_model("toy:trained")), 0)
    rows = []
    for name, model in (("toy:trained", "toy:trained"), ("byte-level BPE", str(bpe_model(folder, pairs)))):
        path = file_of(folder / "text.jsonl", map(plain, pairs), ROWS)
        seconds = cpu_seconds(lambda path=path, model=model: plan_of(path, model), repetitions=1)
        what = f"planning {ROWS:,} JSONL pairs, {name}"
        rows.append(row(what, ROWS / seconds, "rows/s", "CPU; target 10,000"))
    rows += long_rows(folder, pairs)
    path = file_of(folder / "ids.jsonl", ids(), MANY)
    few = peak_bytes(lambda: plan_of(path, "toy:planted", limit=MANY // 10))
    grown = peak_bytes(lambda: plan_of(path, "toy:planted"))
    note = f"{few / 2**20:.0f} MiB for a tenth, {grown / 2**20:.0f} MiB for all of {MANY:,}"
    rows.append(
        row("memory of planning", (grown - few) / (MANY * 0.9), "bytes/row", "resident, at most", note)
    )
    plan = plan_of(path, "toy:planted", limit=ITEMS // 2, per_shard=1)
    run = plan.write(folder / "run")
    graph = plan.graph
    scores = EdgeScores(graph, np.zeros(graph.n_edges), np.zeros(graph.n_edges), np.ones(graph.n_edges, int))
    for item in plan.items:
        run.commit(item, scores if item.kind == "scores" else schema.PROMPT_METRICS.empty_table())
    seconds = min(wall_seconds(lambda: open_run(run.path).status()) for _ in range(3))
    return [*rows, row(f"status of {ITEMS:,} items", 1e3 * seconds / ITEMS, "ms/item", "wall; target 0.075")]


def long_rows(folder: Path, pairs: list[PromptPair]) -> list[dict[str, Any]]:
    """Rows a second of texts of a hundred words, which no two have in common, and the floor."""
    path = file_of(folder / "long.jsonl", long(pairs), ROWS)
    model = str(folder / "bpe")
    backend = load_tokenizer(resolve_model(model)).backend_tokenizer
    texts = [read[name] for read in map(json.loads, path.open()) for name in ("clean", "corrupted")]

    def encode() -> None:
        for start in range(0, len(texts), 2 * CHUNK):
            backend.encode_batch_fast(texts[start : start + 2 * CHUNK])

    floor = cpu_seconds(encode, repetitions=1)
    seconds = cpu_seconds(lambda: plan_of(path, model), repetitions=1)
    what = f"{ROWS:,} JSONL pairs of a hundred words"
    return [
        row(f"tokenizing {what}", ROWS / floor, "rows/s", "CPU; the floor: encode_batch_fast of both texts"),
        row(
            f"planning {what}", ROWS / seconds, "rows/s", "CPU; target 10,000", f"{floor / seconds:.2g} of it"
        ),
    ]


def long(pairs: list[PromptPair]) -> Iterator[dict[str, Any]]:
    """The pairs behind ninety words of theirs in an order of its own."""
    rng = random.Random(0)
    words = sorted({word for pair in pairs for word in str(pair.clean).split()})
    for i in range(ROWS):
        pair = plain(pairs[i % len(pairs)])
        lead = " ".join(rng.choices(words, k=90))
        yield pair | {name: f"{lead} {pair[name]}" for name in ("clean", "corrupted")}


def plan_of(path: Path, model: str, limit: int | None = None, per_shard: int = 100) -> Plan:
    task = {"name": "file", "path": str(path), "limit": limit}
    plan = make_plan(
        RunConfig.from_mapping(
            {
                "name": "bench",
                "model": {"name": model},
                "tasks": [task],
                "methods": [{"name": "eap"}],
                "shards": {"prompts": per_shard},
            }
        )
    )
    assert plan.run_key
    assert plan.total.rows
    return plan


def file_of(path: Path, pairs: Iterator[dict[str, Any]], n_rows: int) -> Path:
    """The pairs over and over, a line each."""
    lines = [f"{json.dumps(pair)}\n" for pair in pairs]
    with path.open("w") as file:
        file.writelines(lines[i % len(lines)] for i in range(n_rows))
    return path


def plain(pair: PromptPair) -> dict[str, Any]:
    return {name: getattr(pair, name) for name in ("clean", "corrupted", "answers", "wrong_answers")}


def ids() -> Iterator[dict[str, Any]]:
    for i in range(1000):
        yield {
            "clean": [i % 7 + 1, 2, 3],
            "corrupted": [i % 7 + 1, 4, 3],
            "answers": [1],
            "wrong_answers": [2],
        }


def bpe_model(folder: Path, pairs: list[PromptPair]) -> Path:
    """A small model's folder whose tokenizer was trained on these pairs."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=2000, special_tokens=["<e>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator([f"{pair.clean}{pair.answers[0]}" for pair in pairs], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<e>", bos_token="<e>")
    fast.save_pretrained(folder / "bpe")
    config = LlamaConfig(
        vocab_size=len(fast), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4
    )
    LlamaForCausalLM(config).save_pretrained(folder / "bpe")
    return folder / "bpe"
