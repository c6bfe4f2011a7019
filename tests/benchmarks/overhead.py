"""What 10,000 tiny items cost beside their work, and what a second worker brings.

Knows pools, commits and /proc. The work is a commit of a small graph's scores, or a fixed number of products.
"""

import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.graph import Graph
from pipeline.core.scores import EdgeScores
from pipeline.store.run.files import write_parquet
from pipeline.store.run.rows import table_of
from tests.benchmarks.measure import row
from tests.benchmarks.orchestration import Nothing, open_nothing

ITEMS = 10_000
REPETITIONS = 5
PRODUCTS = 60  # jobs of one comparison


@dataclass(frozen=True)
class Commits:
    """Opens work that writes one small item into the folder, with fsync, as workers do."""

    folder: Path

    def __call__(self) -> Any:
        graph = Graph(3, 4, 4)
        score = np.random.default_rng(0).normal(size=graph.n_edges)
        scores = EdgeScores(graph, score, np.abs(score), np.full(graph.n_edges, 4))

        def commit(job: Nothing, _attempt: int) -> None:
            path = self.folder / f"shard-{job.shard:05d}.parquet"
            write_parquet(path, table_of(scores, scores.graph, job.shard), {"shard": job.shard})

        return commit


def open_products() -> Any:
    """Opens work of about a fifth of a second on one thread."""
    import torch

    torch.set_num_threads(1)
    matrix = torch.eye(512) * 0.99

    def multiply(_job: Nothing, _attempt: int) -> None:
        product = matrix
        for _ in range(40):
            product = product @ matrix

    return multiply


def overhead_rows(folder: Path) -> list[dict[str, Any]]:
    """Scheduling and commit of many items apart, memory of driver and workers, one worker against two."""
    return [*_schedule(), *_commit(folder), _second_worker()]


def _schedule() -> list[dict[str, Any]]:
    from pipeline.cluster.pool import RayPool

    with closing(RayPool(open_nothing, workers=2)) as pool:
        _warm(pool)
        pids = {"driver": "self", **{f"worker {slot.index}": str(slot.pid) for slot in pool._slots}}
        early: dict[str, int] = {}
        begin, gaps, last = time.perf_counter(), 0.0, time.perf_counter()
        for number, _ in enumerate(pool.run([Nothing(shard) for shard in range(ITEMS)])):
            now = time.perf_counter()
            gaps, last = max(gaps, now - last), now
            if number == ITEMS // 10:
                early = {who: _resident(pid) for who, pid in pids.items()}
        seconds = time.perf_counter() - begin
        grown = {who: (_resident(pid) - early[who]) / 2**20 for who, pid in pids.items()}
    note = ", ".join(f"{who} {mebibytes:+.1f}" for who, mebibytes in grown.items())
    return [
        row(
            f"scheduling one of {ITEMS:,} items, 2 workers",
            1e3 * seconds / ITEMS,
            "ms",
            "wall, mean; target 2",
        ),
        row("longest time without progress among them", 1e3 * gaps, "ms", "wall"),
        row("memory grown over the last 90 % of them", max(grown.values()), "MiB", "resident", note),
    ]


def _commit(folder: Path) -> list[dict[str, Any]]:
    from pipeline.cluster.pool import RayPool

    with closing(RayPool(Commits(folder), workers=2)) as pool:
        _warm(pool)
        begin = time.perf_counter()
        inside = [outcome.seconds for outcome in pool.run([Nothing(shard) for shard in range(ITEMS)])]
        seconds = time.perf_counter() - begin
    beside = seconds - sum(inside) / 2
    return [
        row(f"commit of one of {ITEMS:,} items, 262 edges, with fsync", 1e3 * float(np.mean(inside)), "ms",
            "wall in its worker, mean; target 12"),
        row("scheduling while 2 workers commit", 1e3 * beside / ITEMS, "ms", "wall not spent in workers, per item"),
    ]  # fmt: skip


def _second_worker() -> dict[str, Any]:
    """One worker against two on the same jobs, the best of a few in turn."""
    from pipeline.cluster.pool import RayPool

    best, cpu = {1: float("inf"), 2: float("inf")}, {1: 0.0, 2: 0.0}
    for _ in range(REPETITIONS):
        for workers in (1, 2):
            with closing(RayPool(open_products, workers=workers)) as pool:
                _warm(pool)
                begin, used = time.perf_counter(), time.process_time()
                list(pool.run([Nothing(shard) for shard in range(PRODUCTS)]))
                seconds = time.perf_counter() - begin
                if seconds < best[workers]:
                    best[workers], cpu[workers] = seconds, time.process_time() - used
    note = ", ".join(f"{n} workers {best[n]:.2f} s, driver {cpu[n]:.2f} CPU s" for n in best)
    what = f"a second worker, {PRODUCTS} jobs, one thread each"
    return row(what, best[1] / best[2], "x faster", "one worker; target 1.8", note)


def _warm(pool: Any) -> None:
    """Returns when every worker has started and done a job."""
    pool.together({slot: Nothing(slot) for slot in range(pool.size)})


def _resident(pid: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))
