"""What the driver of a run costs by itself: a thousand workers that take no time, and a search over 64 parts.

Knows pools. The simulated one answers in the order in which its workers would be done, in a time that nobody waits
for; of the search everything is counted but what its parts compute.
"""

import heapq
import random
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from pipeline.config import RunConfig
from pipeline.core.prompts import TokenPair
from pipeline.methods import Acdc
from pipeline.schedule import make_plan
from pipeline.schedule.conduct import run_wave, waves
from pipeline.schedule.pools import worker_settings
from pipeline.schedule.preparing import prepare
from pipeline.workers.execute import opener
from pipeline.workers.jobs import Budget, Outcome, Queue, place_of
from pipeline.workers.together import Parts, PooledWorkers
from tests.benchmarks.measure import row
from tests.benchmarks.planning import file_of, ids

WORKERS = 1_000
ITEMS = (10_000, 30_000, 100_000)
PARTS = (4, 16, 64)


class Simulated:
    """`size` workers whose jobs take 1 to 2 units of a time that passes by itself; every job succeeds."""

    def __init__(self, size: int) -> None:
        self.size = size

    def run(
        self, jobs: Sequence[Any], *, attempts: int = 1, tried: Mapping[Any, int] | None = None
    ) -> Generator[Outcome, None, None]:
        budget, queue, rng = Budget(attempts, tried), Queue(jobs), random.Random(0)
        busy: list[tuple[float, int, Any, int]] = []
        places: dict[int, Any] = {}

        def feed(worker: int, now: float) -> None:
            if queue:
                job = queue.take(places.get(worker), set())
                places[worker] = place_of(job)
                heapq.heappush(busy, (now + 1 + rng.random(), worker, job, budget.begin(job)))

        for worker in range(self.size):
            feed(worker, 0.0)
        while busy:
            now, worker, job, attempt = heapq.heappop(busy)
            yield Outcome(job, attempt, 1.0, worker)
            feed(worker, now)

    def together(self, jobs: Mapping[int, Any]) -> dict[int, Outcome]:
        raise NotImplementedError

    def close(self) -> None: ...


class Counted:
    """`size` parts of one task in this process; `seconds` is what they have computed."""

    def __init__(self, replica: Any, size: int) -> None:
        self.size, self._replica, self.seconds, self.rounds = size, replica, 0.0, 0
        self._parts = [Parts() for _ in range(size)]

    def run(self, *_: Any, **__: Any) -> Generator[Outcome, None, None]:
        raise NotImplementedError

    def together(self, jobs: Mapping[int, Any]) -> dict[int, Outcome]:
        begin = time.process_time()
        done = {
            slot: Outcome(job, 1, 0.0, slot, self._parts[slot](job, self._replica))
            for slot, job in jobs.items()
        }
        self.seconds += time.process_time() - begin
        self.rounds += 1
        return done

    def close(self) -> None: ...


def simulated_rows(folder: Path) -> list[dict[str, Any]]:
    """CPU seconds of the driver: of an item as they grow in number, of a round as the parts do."""
    each = {count: _milliseconds_per_item(folder, count) for count in ITEMS}
    few, *_, many = ITEMS
    note = ", ".join(f"{ms:.3f} ms of {count:,}" for count, ms in each.items())
    what = f"driver per item, {many:,} items on {WORKERS:,} simulated workers"
    rounds = {parts: _milliseconds_per_round(folder, parts) for parts in PARTS}
    said = ", ".join(f"{ms:.2f} ms with {parts}" for parts, ms in rounds.items())
    return [
        row(what, each[many], "ms", "CPU; planning and Ray left out", note),
        row("the same, growth", each[many] / each[few], "x", f"per item of {few:,}; 1 is linear"),
        row(f"driver per round of a pooled acdc, {PARTS[-1]} parts", rounds[PARTS[-1]], "ms", "CPU", said),
    ]


def _milliseconds_per_item(folder: Path, n_items: int) -> float:
    path = file_of(folder / f"{n_items}.jsonl", ids(), n_items // 2)
    config = _config(folder, {"name": "file", "path": str(path)}, "eap", f"items-{n_items}", 1)
    with closing(prepare(config)) as session:
        assert len(session.pending) == n_items
        pool, begin = Simulated(WORKERS), time.process_time()
        for wave in waves(session, pool.size):
            run_wave(session, wave, pool)
        seconds = time.process_time() - begin
        assert not session.pending
    return 1e3 * seconds / n_items


def _milliseconds_per_round(folder: Path, parts: int) -> float:
    task = {"name": "induction", "count": 128}
    config = _config(folder, task, {"name": "acdc", "threshold": 0.01}, f"parts-{parts}", 128)
    with closing(prepare(config)) as session:
        pool = Counted(opener(worker_settings(session))(), parts)
        prompts: Sequence[TokenPair] = make_plan(config).tokens["induction"]
        begin = time.process_time()
        workers = PooledWorkers(pool, "induction", "acdc", prompts, 2, attempts=1)
        method = config.method_ids["acdc"]
        assert isinstance(method, Acdc)
        for _ in method.drive({"acdc": method}, session.plan.graph, workers, "float32").steps({}):
            pass
        seconds = time.process_time() - begin
    return 1e3 * (seconds - pool.seconds) / pool.rounds


def _config(folder: Path, task: dict[str, Any], method: Any, name: str, per_shard: int) -> RunConfig:
    return RunConfig.from_mapping(
        {
            "name": name,
            "model": "toy:planted" if task["name"] == "file" else "toy:trained",
            "tasks": [task],
            "methods": [method],
            "shards": {"prompts": per_shard},
            "cluster": {"batch_size": 2},
            "output": str(folder),
        }
    )
