"""What many rows of scores cost: merging them over shards, and judging how stable a circuit is by every prompt's.

    python -m tests.benchmarks.rows 100000000        so many rows, and a tenth of them; `make bench` takes 10^7

Knows run directories and arrays; no model. Rows are those of a graph in the shape of GPT-2 small, two prompts a shard.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.circuit import Circuit
from pipeline.core.graph import Graph
from pipeline.core.scores import EdgeScores, Moments
from pipeline.evaluation import Chosen, LearningCurve, Stability, Subject
from pipeline.store.run import schema
from pipeline.store.run.aggregate import aggregate
from pipeline.store.run.opened import Run
from pipeline.store.run.run_dir import RunDirectory
from tests.benchmarks.measure import cpu_seconds, peak_bytes, row
from tests.store.example import plan_of

GRAPH = Graph(n_layers=12, n_heads=12, n_kv_heads=12, d_model=768)  # 32,491 edges
ROWS = 10**7
PER_SHARD = 2


def row_rows(folder: Path, n_rows: int = ROWS) -> list[dict[str, Any]]:
    """Rows a second and peak memory, with a tenth of the rows beside all of them."""
    found = []
    peaks: dict[str, list[float]] = {"merged": [], "judged": []}
    for share in (10, 1):
        n_shards = max(1, n_rows // share // GRAPH.n_edges)
        run = run_of(folder / f"merged-{share}", n_shards)
        peaks["merged"].append(peak_bytes(lambda run=run: aggregate(run)))
        read = Run(run)
        n_prompts = max(8, n_shards)
        kept = run_of(folder / f"kept-{share}", n_prompts // PER_SHARD, prompt_scores={"eap": "float32"})
        aggregate(kept)
        peaks["judged"].append(peak_bytes(lambda kept=kept: judge(Run(kept))))
    seconds = cpu_seconds(lambda: aggregate(run), repetitions=1)
    n = n_shards * GRAPH.n_edges
    found.append(
        row(f"merging {n:.2g} rows over shards", n / seconds, "rows/s", "CPU", _beside(peaks["merged"]))
    )
    seconds = cpu_seconds(lambda: read.edge_scores("eap", "ioi"), repetitions=1)
    found.append(row("reading the merged scores of all edges", 1e3 * seconds, "ms", "CPU"))
    seconds = cpu_seconds(lambda: judge(Run(kept)), repetitions=1)
    n = n_prompts * GRAPH.n_edges
    what = f"stability and learning curve of {n:.2g} scores of prompts"
    return [
        *found,
        row(what, n / seconds, "rows/s", "CPU; 100 resamples, 40 pairs", _beside(peaks["judged"])),
    ]


def run_of(path: Path, n_shards: int, **options: Any) -> RunDirectory:
    """A run of one method with all shards committed."""
    arguments = plan_of({"ioi": n_shards}, {"eap": "edge"}, statistics=False, graph=GRAPH, **options)
    run = RunDirectory.create(path, **arguments)
    rng = np.random.default_rng(0)
    truth = rng.standard_t(2, GRAPH.n_edges)
    for item in run.items:
        if item.method is None:
            run.commit(item, schema.PROMPT_METRICS.empty_table())
            continue
        scores = truth + rng.normal(0, 3, size=(PER_SHARD, GRAPH.n_edges))
        rows = scores.astype(np.float32) if options else None
        run.commit(item, EdgeScores.from_moments(GRAPH, Moments.of(scores), per_prompt=rows))
    return run


def judge(run: Run) -> None:
    """What evaluations read of every prompt's scores."""
    scores = run.edge_scores("eap", "ioi")
    chosen = Chosen(Circuit.from_scores(scores, top=325), 0.01)
    subject = Subject(
        "ioi",
        "eap",
        scores,
        "logit_diff",
        "corrupted",
        chosen=chosen,
        rows_of_prompts=lambda: run.rows_of_prompts("eap", "ioi"),
    )
    for evaluation in (Stability(votes=0), LearningCurve()):
        evaluation.find(subject, None, ())


def _beside(peaks: list[float]) -> str:
    few, many = (peak / 2**20 for peak in peaks)
    return f"peak {few:.0f} MiB for a tenth, {many:.0f} MiB for all"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        row_rows(Path(name), int(float(sys.argv[1])) if sys.argv[1:] else ROWS)
