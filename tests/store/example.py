"""A run of two tasks, one edge method, one deciding method and one node method, made of plain values."""

import json
from dataclasses import asdict

import numpy as np
import pyarrow.parquet as pq

from pipeline.core.graph import Graph
from pipeline.core.items import Item, digest
from pipeline.core.prompts import PromptPair, TokenPair
from pipeline.core.scores import EdgeScores, Moments, NodeScores
from pipeline.store.place.where import Place, found, relative
from pipeline.store.run.schema import SCHEMA_VERSION
from pipeline.store.run.tables import metrics_table

GRAPH = Graph(n_layers=2, n_heads=2, n_kv_heads=2, d_model=8)
METHODS = {"eap": "edge", "acdc": "edge", "patch": "node"}


def plan_of(
    tasks: dict[str, int],
    methods: dict[str, str],
    *,
    salt: str = "",
    statistics: bool = True,
    prompt_scores: dict[str, str] | None = None,
    graph: Graph = GRAPH,
) -> dict:
    """Arguments of `RunDirectory.create` for `tasks` {id: number of shards of two prompts}. `prompt_scores` are
    kept for these methods, in these types."""
    identity = {
        "model": {"fingerprint": "f" + salt, "graph": graph.fingerprint},
        "tasks": {task: {"prompts": 2 * n, "sha256": digest([task, n])} for task, n in tasks.items()},
        "methods": {m: {"name": m, "metric": "logit_diff", "ablation": "mean"} for m in methods},
        "metric": "logit_diff",
        "ablation": "mean",
        "seed": 0,
    }
    items = [Item("statistics", task, None, 0) for task in tasks] if statistics else []
    for task, n_shards in tasks.items():
        for shard in range(n_shards):
            items.append(Item("baseline", task, None, shard))
            for method, level in methods.items():
                items.append(Item("scores" if level == "edge" else "node_scores", task, method, shard))
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "name": "test",
        "run_key": digest(identity),
        "model": {"name": "models/tiny", "revision": "local", "fingerprint": "f", "dtype": "float32"},
        "graph": asdict(graph),
        "graph_fingerprint": graph.fingerprint,
        "methods": {
            m: {"level": level, "scores_prompts": m == "eap", "parameters": identity["methods"][m]}
            for m, level in methods.items()
        },
        "metrics": ["logit_diff"],
        "identity": identity,
    }
    prompts = {
        task: [[token_pair(2 * shard), token_pair(2 * shard + 1)] for shard in range(n)]
        for task, n in tasks.items()
    }
    plan = {"prompt_scores": prompt_scores or {}}
    plan |= {"items": [{**item.to_dict(), "key": digest([item.to_dict(), salt])} for item in items]}
    return {
        "run_yaml": "name: test\n",
        "manifest": json.loads(json.dumps(manifest)),
        "plan": plan,
        "graph": graph,
        "prompts": prompts,
    }


def token_pair(index: int) -> TokenPair:
    pair = PromptPair(
        f"clean {index}", f"corrupted {index}", (" a",), (" b", " c"), f"file.jsonl:{index + 1}"
    )
    return TokenPair(index, (index, 5, 6), (index, 7, 8), (1,), (2, 3), pair)


def payload_of(item: Item, seed: int = 0):
    """Something that an item of its kind commits; the same for the same item and seed."""
    rng = np.random.default_rng([seed, item.shard, *map(ord, item.name)])
    if item.kind == "statistics":
        return {"input": rng.normal(size=(3, 8)), "count": np.array([4, 4, 4])}
    if item.kind == "baseline":
        ids = [2 * item.shard, 2 * item.shard + 1]
        return metrics_table(ids, {"logit_diff": (rng.normal(size=2), [0.5, np.nan])})
    if item.kind == "node_scores":
        spans = (None, "10", f"{item.shard}")  # other shards, other positions
        n = np.full(9, 2)
        node = np.repeat([0, 3, 1], 3)
        return NodeScores(GRAPH, node, spans * 3, rng.normal(size=9), np.abs(rng.normal(size=9)), n)
    rows = rng.normal(size=(2, GRAPH.n_edges))
    moments = Moments.of(rows)
    if item.method == "acdc":
        mean, n = moments.mean.copy(), moments.n.copy()
        mean[:4], n[:4] = np.nan, 0  # edges into dead nodes
        std = np.where(n > 0, moments.std, np.nan)
        return EdgeScores(GRAPH, mean, std, n, kept=np.nan_to_num(mean) > 0)
    return EdgeScores.from_moments(GRAPH, moments, per_prompt=rows)


def flip_a_bit(path) -> None:
    """Damages a value and leaves the footer as it is."""
    content = bytearray(path.read_bytes())
    position = len(content) - 1
    if path.suffix == ".parquet":
        names = pq.read_schema(path).names
        column = (
            pq.read_metadata(path).row_group(0).column(names.index("score" if "score" in names else "clean"))
        )
        position = column.data_page_offset + column.total_compressed_size - 3
    content[position] ^= 0x10
    path.write_bytes(content)


def copy_of(run: Place, target: Place) -> Place:
    """A copy of a finished run in a folder or a store."""
    for path in found(run, "**/*"):
        copy = target / run.name / relative(path, run)
        if hasattr(copy.parent, "mkdir"):
            copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    return target / run.name
