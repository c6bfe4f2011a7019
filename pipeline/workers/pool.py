"""Ray actors, one per model replica, and the loop that feeds them.

Knows Ray. Does not know what a job is. The loop keeps one job in flight per actor: a second one waiting in
the actor's own queue would be charged an attempt when the actor dies on the first.
"""

import logging
import os
import time
from collections.abc import Generator, Hashable, Mapping, Sequence
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # before Ray is imported anywhere: nothing is reported

import ray
from ray.exceptions import RayError, RayTaskError

from pipeline.core.errors import ConfigError, ModelError
from pipeline.workers.actor import Worker, worker_environment
from pipeline.workers.jobs import Budget, Failure, Opener, Outcome, Queue, place_of

STARTS = 3  # how many workers may fail to start, one after the other, before the run gives up
START_TIMEOUT = 900.0  # seconds; a request that the cluster cannot satisfy just waits in Ray
OBJECT_STORE = 128 * 2**20  # bytes; jobs and reports are small, scores go straight to files


class RayPool:
    """`workers` actors that open their work once and take one job each.

    Starting is asynchronous: the constructor returns when Ray runs and the actors are asked for; `run` uses
    each as soon as its model is loaded. A dead actor is replaced. If Ray is already up in this process it is
    used and left running.
    """

    def __init__(
        self,
        opener: Opener,
        *,
        workers: int = 1,
        gpus_per_worker: float = 0,
        threads: int = 1,
        address: str = "local",
    ) -> None:
        self.size = workers
        self._owns_ray = not ray.is_initialized()
        if self._owns_ray:
            _connect(address, workers * threads)
        try:
            _check_resources(address, workers, gpus_per_worker, threads)
            self._opener = ray.put(opener)
            self._actor = ray.remote(Worker).options(
                num_cpus=threads,
                num_gpus=gpus_per_worker,
                max_restarts=0,  # replaced by hand: a restart inside Ray would try a bad start for ever
                max_task_retries=0,
                runtime_env={"env_vars": worker_environment(threads, gpus_per_worker)},
            )
            self._seats = [_Seat(index) for index in range(workers)]
            self._failed_starts = 0
            for seat in self._seats:
                self._start(seat)
        except BaseException:
            self.close()
            raise

    def run(
        self, jobs: Sequence[Any], *, attempts: int = 1, tried: Mapping[Any, int] | None = None
    ) -> Generator[Outcome, None, None]:
        """See `Pool.run`."""
        budget, queue = Budget(attempts, tried), Queue(jobs)
        try:
            while queue or any(seat.job is not None for seat in self._seats):
                for seat in self._seats:
                    if seat.ready and seat.job is None and queue:
                        self._give(seat, queue, budget)
                heard = self._next_seat()
                if heard is None:
                    continue
                if not heard.ready:
                    self._finish_start(heard)
                    continue
                outcome = self._finish_job(heard, budget)
                if not outcome.final:
                    queue.put_back(outcome.job)
                yield outcome
        finally:
            for seat in self._seats:  # only when the caller has given up early
                if seat.job is not None:
                    self._replace(seat)

    def together(self, jobs: Mapping[int, Any]) -> dict[int, Outcome]:
        """See `Pool.together`."""
        seats = {index: self._seats[index] for index in jobs}
        while not all(seat.ready for seat in seats.values()):
            heard = self._next_seat()
            if heard is not None:
                self._finish_start(heard)
        for index, seat in seats.items():
            seat.job, seat.since = jobs[index], time.monotonic()
            seat.ref = seat.actor.run.remote(seat.job, 1)
        outcomes = {}
        try:
            for index, seat in seats.items():
                result, failure, seconds = self._hear(seat)
                outcomes[index] = Outcome(jobs[index], 1, seconds, index, result, failure)
        finally:
            for seat in seats.values():  # only when the wait was broken off
                if seat.job is not None:
                    self._replace(seat)
        return outcomes

    def _give(self, seat: "_Seat", queue: Queue, budget: Budget) -> None:
        taken = {other.place for other in self._seats if other is not seat and other.job is not None}
        seat.job = queue.take(seat.place, taken)
        seat.place = place_of(seat.job)
        seat.attempt = budget.begin(seat.job)
        seat.since = time.monotonic()
        seat.ref = seat.actor.run.remote(seat.job, seat.attempt)

    def _next_seat(self) -> "_Seat | None":
        """The seat whose actor has something to say; None when nothing came within some seconds."""
        by_ref = {seat.ref: seat for seat in self._seats if seat.ref is not None}
        done, _ = ray.wait(list(by_ref), num_returns=1, timeout=5.0)
        if done:
            return by_ref[done[0]]
        waited = [time.monotonic() - seat.since for seat in self._seats if not seat.ready]
        if len(waited) == self.size and min(waited) > START_TIMEOUT:
            raise ConfigError(
                f"no worker has started within {START_TIMEOUT:.0f} s: the cluster may lack the CPUs or GPUs; "
                "lower cluster.workers, cluster.threads or cluster.gpus_per_worker"
            )
        return None

    def _finish_job(self, seat: "_Seat", budget: Budget) -> Outcome:
        job = seat.job
        result, failure, seconds = self._hear(seat)
        final = budget.is_final(job, failure)
        return Outcome(job, seat.attempt, seconds, seat.index, result, failure, final)

    def _hear(self, seat: "_Seat") -> tuple[Any, Failure | None, float]:
        """(result, failure, seconds) of the job that an actor is at; a dead actor is replaced."""
        result = None
        try:
            result, failure, seconds = ray.get(seat.ref)
            seat.job = seat.ref = None
        except RayTaskError as error:  # outside of the worker's own care: unpicklable job or result
            failure, seconds = Failure.of(error), time.monotonic() - seat.since
            seat.job = seat.ref = None
        except RayError as error:
            failure, seconds = _death(seat, error), time.monotonic() - seat.since
            self._replace(seat)
        return result, failure, seconds

    def _finish_start(self, seat: "_Seat") -> None:
        """Takes a started actor into use, or asks for another; gives up after `STARTS` failures in a row."""
        try:
            seat.pid, failure = ray.get(seat.ref)
        except RayError as error:
            failure = _death(seat, error)
        if failure is None:
            seat.ready, seat.ref, self._failed_starts = True, None, 0
            return
        if failure.kind == "input":
            raise ModelError(failure.message)
        self._failed_starts += 1
        if self._failed_starts >= STARTS:
            problem = ModelError(f"workers cannot start: {failure.error}: {failure.message}")
            problem.add_note(failure.traceback)
            raise problem
        self._replace(seat)

    def _start(self, seat: "_Seat") -> None:
        seat.actor = self._actor.remote(self._opener)
        seat.ref = seat.actor.start.remote()
        seat.since = time.monotonic()
        seat.ready, seat.job, seat.place, seat.pid = False, None, None, 0

    def _replace(self, seat: "_Seat") -> None:
        ray.kill(seat.actor, no_restart=True)
        self._start(seat)

    def close(self) -> None:
        """Kills the actors, and Ray with them if this pool started it."""
        for seat in getattr(self, "_seats", ()):
            if seat.actor is not None and ray.is_initialized():
                ray.kill(seat.actor, no_restart=True)
                seat.actor = seat.ref = None
        if self._owns_ray and ray.is_initialized():
            ray.shutdown()


class _Seat:
    """One place for an actor: who sits there, what it works on, and what to wait for."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.actor: Any = None
        self.ref: Any = None
        self.ready = False
        self.pid = 0
        self.job: Any = None
        self.attempt = 0
        self.place: Hashable | None = None
        self.since = 0.0


def _connect(address: str, cpus: int) -> None:
    """Starts Ray on this machine, or connects to a cluster. More workers than cores may share them."""
    quiet: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
    if address == "local":
        quiet |= {"num_cpus": max(cpus, os.cpu_count() or 1), "object_store_memory": OBJECT_STORE}
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        if address == "local":
            raise
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ConfigError(
            f"cluster.address: {address!r} cannot be reached ({reason}); start Ray there, or use address: local"
        ) from None
    _hush()


def _hush() -> None:
    """Ray prints every actor's death to stdout, whatever `log_to_driver` says; the outcomes report it."""
    driver: Any = getattr(getattr(ray, "_private", None), "worker", None)
    if hasattr(driver, "_worker_logs_enabled"):
        driver._worker_logs_enabled = False  # noqa: SLF001 - there is no public switch


def _check_resources(address: str, workers: int, gpus: float, threads: int) -> None:
    """Ray waits in silence for what a machine does not have, so ask before."""
    if address != "local":  # clusters may grow
        return
    have = ray.cluster_resources()
    if gpus and have.get("GPU", 0) < gpus * workers:
        raise ConfigError(
            f"cluster: {workers} workers with {gpus:g} GPUs each, and Ray finds {have.get('GPU', 0):g} here; "
            "lower cluster.workers or cluster.gpus_per_worker (0 computes on the CPU)"
        )
    if have.get("CPU", 0) < threads * workers:
        raise ConfigError(
            f"cluster: {workers} workers with {threads} threads each, and Ray was started with "
            f"{have.get('CPU', 0):g} CPUs; lower cluster.workers or cluster.threads"
        )


def _death(seat: _Seat, error: RayError) -> Failure:
    detail = " ".join(str(error).split())
    who = f" (process {seat.pid})" if seat.pid else ""
    return Failure(
        kind="died",
        error=type(error).__name__,
        message=f"the worker{who} died: killed, out of memory, or a crash in native code",
        traceback=detail,
        pid=seat.pid,
    )
