"""One pool for several runs of one model, one after the other: workers keep the model and change the run.

Knows replicas and what a pool takes. Does not know Ray, nor which runs go together (`flows.sweep`).
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from pipeline.workers.execute import Replica, Settings, open_replica, replica_with
from pipeline.workers.jobs import Opener, Outcome, Pool


@dataclass(frozen=True)
class Sent:
    """A job of the run that lies at `run`."""

    run: str
    job: Any

    @property
    def name(self) -> str:
        return str(self.job.name)

    @property
    def task(self) -> str:
        return str(self.job.task)

    @property
    def shard(self) -> int:
        return int(self.job.shard)


class SharedReplica:
    """What one worker has at hand: the model, and the replica of the run that asked last."""

    def __init__(self, run: str, replica: Replica) -> None:
        self._run = run
        self._replica = replica

    @property
    def device(self) -> str:
        """See `Replica.device`."""
        return self._replica.device

    def __call__(self, sent: Sent, attempt: int) -> Any:
        if sent.run != self._run:
            self._replica, self._run = replica_with(self._replica, sent.run), sent.run
        return self._replica(sent.job, attempt)


def shared_opener(settings: Settings) -> Opener:
    """A picklable function that opens a desk, with the model as the run of `settings` has planned with it."""
    return partial(_open_shared, settings)


def _open_shared(settings: Settings) -> SharedReplica:
    return SharedReplica(settings.run_path, open_replica(settings))


class Lent:
    """A pool of desks as one run sees it. Closing it leaves the pool open for the next."""

    def __init__(self, pool: Pool, run: str) -> None:
        self._pool = pool
        self._run = run

    @property
    def size(self) -> int:
        return self._pool.size

    def run(
        self, jobs: Sequence[Any], *, attempts: int = 1, tried: Mapping[Any, int] | None = None
    ) -> Generator[Outcome, None, None]:
        """See `Pool.run`."""
        sent = [Sent(self._run, job) for job in jobs]
        before = {Sent(self._run, job): count for job, count in (tried or {}).items()}
        outcomes = self._pool.run(sent, attempts=attempts, tried=before)
        try:
            for outcome in outcomes:
                yield replace(outcome, job=outcome.job.job)
        finally:
            outcomes.close()

    def together(self, jobs: Mapping[int, Any]) -> dict[int, Outcome]:
        """See `Pool.together`."""
        outcomes = self._pool.together({slot: Sent(self._run, job) for slot, job in jobs.items()})
        return {slot: replace(outcome, job=outcome.job.job) for slot, outcome in outcomes.items()}

    def close(self) -> None:
        """Nothing: others may want the pool yet."""
