"""Ray actors, one per model replica, and the loop that feeds them.

Knows Ray's actors. Does not know what a job is. The loop keeps one job in flight per actor: a second one waiting in
the actor's own queue would be charged an attempt when the actor dies on the first.
"""

import os
import socket
import time
from collections.abc import Collection, Generator, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # before Ray is imported anywhere: nothing is reported

import ray
from ray.exceptions import RayError, RayTaskError

from pipeline.core.errors import ConfigError, ModelError
from pipeline.placement import Need, capacity
from pipeline.workers import cluster
from pipeline.workers.actor import Worker, worker_environment
from pipeline.workers.jobs import Budget, Failure, Opener, Outcome, Queue, place_of
from pipeline.workers.pace import Pace

STARTS = 3  # how many workers may fail to start, one after the other, before the run gives up
# A cluster sends workers to a node that was killed until it misses it: so long their deaths give up nothing, and are
# so far apart.
MISSED_SECONDS = 90.0
PAUSE_SECONDS = 5.0
START_TIMEOUT = 900.0  # seconds without a single worker; another user of the cluster may hold what there is
STOPPED_SECONDS = 20.0  # a process of this machine that was stopped for so long is killed
PLACE_SECONDS = (
    30.0  # how long jobs that belong together wait for workers that a cluster has lost the place for
)
TICK = 1.0  # seconds between two looks at what does not report itself


class RayPool:
    """Actors that open their work once and take one job each: `workers`, or with None as many as fit.

    Starting is asynchronous: the constructor returns when Ray runs and the actors are asked for; `run` uses each as
    soon as its model is loaded, also one whose machine joins the cluster later. A dead actor is replaced. If Ray is
    already up in this process it is used and left running. `stragglers`: see `Pace`.
    """

    def __init__(
        self,
        opener: Opener,
        *,
        workers: int | None = 1,
        need: Need | None = None,
        address: str = "local",
        wait_minutes: float = 0,
        stragglers: float = 4,
    ) -> None:
        self._need, self._address = need or Need(), address
        self._timeout = max(START_TIMEOUT, 60 * wait_minutes)
        self._pace = Pace(stragglers)
        self._owns_ray = not ray.is_initialized()
        if self._owns_ray:
            cluster.connect(address, (workers or 1) * self._need.threads)
        try:
            wanted = cluster.decide(workers, self._need, address, grows=wait_minutes > 0)
            self._opener = ray.put(opener)
            self._actor = ray.remote(Worker).options(
                num_cpus=self._need.threads,
                num_gpus=self._need.gpus,
                max_restarts=0,  # replaced by hand: a restart inside Ray would try a bad start for ever
                max_task_retries=0,
                runtime_env={"env_vars": worker_environment(self._need.threads, self._need.gpus)},
            )
            self._seats = [_Seat(index) for index in range(wanted)]
            self._bound: dict[int, _Seat] = {}  # who took which of the jobs that belong together
            self._failed_starts: list[float] = []  # when, since the last one that worked
            self._looked = time.monotonic()
            for seat in self._seats:
                self._start(seat)
        except BaseException:
            self.close()
            raise

    @property
    def size(self) -> int:
        """How many workers there is room for now, of those asked for."""
        if self._address == "local":
            return len(self._seats)
        room = capacity(cluster.machines(), cluster.need_of_ray(self._need))
        return max(1, min(room, len(self._seats)))

    def run(
        self, jobs: Sequence[Any], *, attempts: int = 1, tried: Mapping[Any, int] | None = None
    ) -> Generator[Outcome, None, None]:
        """See `Pool.run`. A straggler near the end is begun by an idle worker too, as the same attempt; who is
        first counts, and the other is replaced."""
        budget, queue = Budget(attempts, tried), Queue(jobs)
        try:
            while queue or any(seat.job is not None for seat in self._seats):
                for seat in self._seats:
                    if seat.ready and seat.job is None:
                        if queue:
                            self._give(seat, queue, budget)
                        elif (late := self._straggler()) is not None:
                            self._send(seat, late.job, late.attempt)
                            late.repeated = seat.repeated = True
                heard = self._next_seat()
                if heard is None:
                    continue
                if not heard.ready:
                    self._finish_start(heard)
                    continue
                outcome = self._finish_job(heard, budget)
                if outcome is None:
                    continue
                if not outcome.final:
                    queue.put_back(outcome.job)
                yield outcome
        finally:
            for seat in self._seats:  # only when the caller has given up early
                if seat.job is not None:
                    self._replace(seat)

    def together(self, jobs: Mapping[int, Any]) -> dict[int, Outcome]:
        """See `Pool.together`. A job for which the cluster has lost the place fails as one whose worker died."""
        seats = self._bind(jobs)
        outcomes = {
            index: Outcome(job, 1, 0.0, index, None, _no_place(self._need))
            for index, job in jobs.items()
            if index not in seats
        }
        for index, seat in seats.items():
            self._send(seat, jobs[index], 1)
        try:
            while waiting := {index for index in seats if index not in outcomes}:
                heard = self._next_seat()
                if heard is None:
                    continue
                if not heard.ready:
                    self._finish_start(heard)
                    continue
                index = next(index for index in waiting if seats[index] is heard)
                result, failure, seconds = self._hear(heard)
                outcomes[index] = Outcome(jobs[index], 1, seconds, index, result, failure)
        finally:
            for seat in seats.values():  # only when the wait was broken off
                if seat.job is not None:
                    self._replace(seat)
        return outcomes

    # --- jobs --------------------------------------------------------------------------------------------

    def _give(self, seat: "_Seat", queue: Queue, budget: Budget) -> None:
        taken = {other.place for other in self._seats if other is not seat and other.job is not None}
        job = queue.take(seat.place, taken)
        self._send(seat, job, budget.begin(job))

    def _send(self, seat: "_Seat", job: Any, attempt: int) -> None:
        seat.job, seat.attempt, seat.place = job, attempt, place_of(job)
        seat.since, seat.repeated = time.monotonic(), False
        seat.ref = seat.actor.run.remote(job, attempt)

    def _straggler(self) -> "_Seat | None":
        """The seat whose job is late and was not begun anywhere else; the longest at work first."""
        now = time.monotonic()
        begun = sorted(
            (s for s in self._seats if s.job is not None and not s.repeated), key=lambda s: s.since
        )
        return next((seat for seat in begun if self._pace.is_late(seat.job, now - seat.since)), None)

    def _twins(self, seat: "_Seat") -> list["_Seat"]:
        """Who else is at this seat's job."""
        return [other for other in self._seats if other is not seat and other.job == seat.job]

    def _finish_job(self, seat: "_Seat", budget: Budget) -> Outcome | None:
        """How a job has ended; None when it failed here and goes on elsewhere."""
        job, attempt, twins = seat.job, seat.attempt, self._twins(seat)
        result, failure, seconds = self._hear(seat)
        final = budget.is_final(job, failure)
        if failure is not None and twins and failure.kind not in ("input", "storage"):
            return None
        for twin in twins:
            self._replace(twin)
        if failure is None:
            self._pace.note(job, seconds)
        return Outcome(job, attempt, seconds, seat.index, result, failure, final)

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

    # --- seats -------------------------------------------------------------------------------------------

    def _bind(self, indices: Collection[int]) -> dict[int, "_Seat"]:
        """A started worker for every index: the same as before, unless it was replaced. Some may stay without
        where the cluster has shrunk."""
        since = time.monotonic()
        while True:
            self._bound = {index: seat for index, seat in self._bound.items() if seat.ready}
            free = [seat for seat in self._seats if seat.ready and seat not in self._bound.values()]
            missing = [index for index in indices if index not in self._bound]
            self._bound |= dict(zip(missing, free, strict=False))
            waited = time.monotonic() - since
            seated = {index: self._bound[index] for index in indices if index in self._bound}
            if len(seated) == len(indices) or (waited > PLACE_SECONDS and len(seated) >= self.size):
                return seated
            if not free:  # maybe all sit at jobs of a search that had more workers
                size = self.size
                self._bound = {i: seat for i, seat in self._bound.items() if i < size or i in indices}
            heard = self._next_seat()
            if heard is not None:
                self._finish_start(heard)

    def _next_seat(self) -> "_Seat | None":
        """The seat whose actor has something to say; None when nothing came within a moment."""
        by_ref = {seat.ref: seat for seat in self._seats if seat.ref is not None}
        done: list[Any] = []
        if by_ref:
            done, _ = ray.wait(list(by_ref), num_returns=1, timeout=TICK)
        else:
            time.sleep(TICK)
        if time.monotonic() - self._looked > TICK:
            self._looked = time.monotonic()
            self._look_after()
        return by_ref[done[0]] if done else None

    def _look_after(self) -> None:
        """Kills workers that were stopped, asks for those that are due, and gives up when not one can start."""
        now = time.monotonic()
        for seat in self._seats:
            if seat.again is not None and now >= seat.again:
                self._start(seat)
            if seat.job is None or not _is_stopped(seat):
                seat.stopped = None
            elif seat.stopped is None:
                seat.stopped = now
            elif now - seat.stopped > STOPPED_SECONDS:
                ray.kill(seat.actor, no_restart=True)
        waited = [now - seat.since for seat in self._seats if not seat.ready]
        if len(waited) == len(self._seats) and min(waited) > self._timeout:
            raise ConfigError(
                f"no worker has started within {self._timeout:.0f} s: each needs {self._need}, and the cluster has "
                f"{cluster.describe(cluster.machines())}, maybe in use by others; lower cluster.workers, "
                "cluster.threads or cluster.gpus_per_worker, or try again later"
            )

    def _finish_start(self, seat: "_Seat") -> None:
        """Takes a started actor into use, or asks for another; gives up after `STARTS` failures in a row."""
        try:
            (seat.host, seat.pid), failure = ray.get(seat.ref)
        except RayError as error:
            failure = _death(seat, error)
        if failure is None:
            seat.ready, seat.ref, self._failed_starts = True, None, []
            return
        if failure.kind == "input":
            raise ModelError(failure.message)
        self._failed_starts.append(time.monotonic())
        may_be_missed = failure.kind == "died" and self._address != "local"
        patience = MISSED_SECONDS if may_be_missed else 0.0
        if len(self._failed_starts) >= STARTS and time.monotonic() - self._failed_starts[0] >= patience:
            problem = ModelError(f"workers cannot start: {failure.error}: {failure.message}")
            problem.add_note(failure.traceback)
            raise problem
        if may_be_missed:
            ray.kill(seat.actor, no_restart=True)
            seat.ref, seat.again = None, time.monotonic() + PAUSE_SECONDS
        else:
            self._replace(seat)

    def _start(self, seat: "_Seat") -> None:
        seat.actor = self._actor.remote(self._opener)
        seat.ref = seat.actor.start.remote()
        seat.since = time.monotonic()
        seat.ready, seat.job, seat.place, seat.stopped, seat.again = False, None, None, None, None
        seat.host, seat.pid = "", 0

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
            cluster.disconnect()


class _Seat:
    """One place for an actor: who sits there, what it works on, and what to wait for."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.actor: Any = None
        self.ref: Any = None
        self.ready = False
        self.host, self.pid = "", 0
        self.job: Any = None
        self.attempt = 0
        self.place: Hashable | None = None
        self.since = 0.0
        self.repeated = False  # another seat is or was at the same attempt
        self.stopped: float | None = None  # since when its process is stopped
        self.again: float | None = None  # when its next worker is asked for


def _is_stopped(seat: _Seat) -> bool:
    """Whether a signal holds the process up; only seen on this machine."""
    if seat.host != socket.gethostname():
        return False
    try:
        stat = Path(f"/proc/{seat.pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] == "T"


def _death(seat: _Seat, error: RayError) -> Failure:
    detail = " ".join(str(error).split())
    who = f" (process {seat.pid} on {seat.host})" if seat.pid else ""
    why = (
        "stopped by a signal and did not go on"
        if seat.stopped
        else "killed, out of memory, or a crash in native code"
    )
    return Failure(
        kind="died",
        error=type(error).__name__,
        message=f"the worker{who} died: {why}",
        traceback=detail,
        host=seat.host,
        pid=seat.pid,
    )


def _no_place(need: Need) -> Failure:
    has = cluster.describe(cluster.machines())
    return Failure("died", "NoPlaceError", f"no place with {need} for the worker: the cluster has {has}")
