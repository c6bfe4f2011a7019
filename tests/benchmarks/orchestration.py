"""Fixed costs of a run: writing an item's file, scheduling an item, starting Ray and Prefect.

Knows pools and files. Does not know models: the work scheduled here is empty.
"""

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.graph import Graph
from pipeline.core.scores import EdgeScores
from pipeline.store.run.files import write_parquet
from pipeline.store.run.rows import table_of

# In a process of its own, as a person's command: Ray with two workers in a thread, a Prefect flow beside it.
_START = """
import sys, time
begin = time.perf_counter()
from flows.environment import set_quiet_environment
set_quiet_environment()
from pathlib import Path
from concurrent.futures import ThreadPoolExecutor
from tests.benchmarks.orchestration import started_pool

with ThreadPoolExecutor(1) as thread:
    pool = thread.submit(started_pool)
    from prefect import flow

    @flow(log_prints=False)
    def empty():
        pass

    empty()
    ready = pool.result()
Path(sys.argv[1]).write_text(str(time.perf_counter() - begin))
ready.close()
"""


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


def start_seconds(folder: Path) -> float:
    """Wall time of a new process until Ray's two workers and a Prefect flow have run."""
    found = folder / "seconds"  # a file: Prefect's server inherits pipes, and may outlive the process
    subprocess.run([sys.executable, "-c", _START, str(found)], check=True, stdout=subprocess.DEVNULL)
    return float(found.read_text())
