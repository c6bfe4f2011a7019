"""Fixed costs of a run: writing an item's file, scheduling an item, starting Ray.

Knows pools and files. Does not know models: the work scheduled here is empty.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.graph import Graph
from pipeline.core.scores import EdgeScores
from pipeline.store.run.files import write_parquet
from pipeline.store.run.rows import table_of


@dataclass(frozen=True)
class Nothing:
    """A job without work."""

    shard: int
    task: str = "t"

    @property
    def name(self) -> str:
        return f"nothing/{self.shard}"


def open_nothing() -> Any:
    """What a worker opens: a function that does nothing."""
    return _no_work


def _no_work(_job: Nothing, _attempt: int) -> None:
    return None


def started_pool() -> Any:
    """Two Ray workers that have each done a job."""
    from pipeline.cluster.pool import RayPool

    pool = RayPool(open_nothing, workers=2)
    list(pool.run([Nothing(0), Nothing(1)]))
    return pool


def schedule_seconds(n_items: int) -> tuple[float, float]:
    """Wall time until two workers are ready, and per item from then on."""
    begin = time.perf_counter()
    pool = started_pool()
    started = time.perf_counter()
    for _ in pool.run([Nothing(shard) for shard in range(n_items)]):
        pass
    done = time.perf_counter()
    pool.close()
    return started - begin, (done - started) / n_items


def commit_seconds(folder: Path, repetitions: int = 50) -> float:
    """Mean wall time of writing one item of GPT-2 small's graph: table, hash, Parquet, fsync, rename."""
    graph = Graph(12, 12, 12)
    score = np.random.default_rng(0).normal(size=graph.n_edges)
    scores = EdgeScores(graph, score, np.abs(score), np.full(graph.n_edges, 100))
    begin = time.perf_counter()
    for shard in range(repetitions):
        write_parquet(
            folder / f"shard-{shard:05d}.parquet", table_of(scores, scores.graph, shard), {"shard": shard}
        )
    return (time.perf_counter() - begin) / repetitions
