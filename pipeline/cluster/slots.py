"""Places for workers: an actor sits at each, is watched, and is replaced when it dies.

Knows Ray's actors and how they start and end. Does not know which job is next, nor whether one is tried again.
"""

import os
import socket
import time
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # before Ray is imported anywhere: nothing is reported

import ray
from ray.exceptions import RayError, RayTaskError

from pipeline.cluster import connection
from pipeline.cluster.actor import Worker, worker_environment
from pipeline.core.errors import ConfigError, ModelError
from pipeline.core.machines import Need
from pipeline.workers.jobs import Failure, Opener, place_of

STARTS = 3  # how many workers may fail to start, one after the other, before the run gives up
# A cluster sends workers to a node that was killed until it misses it: so long their deaths give up nothing, and are
# so far apart.
MISSED_SECONDS = 90.0
PAUSE_SECONDS = 5.0
STOPPED_SECONDS = 20.0  # a process of this machine that was stopped for so long is killed
TICK = 1.0  # seconds between two looks at what does not report itself


@dataclass(eq=False)
class Slot:
    """One place for an actor: who sits there, what it works on, and what to wait for."""

    index: int
    actor: Any = None
    ref: Any = None
    ready: bool = False
    host: str = ""
    pid: int = 0
    job: Any = None
    attempt: int = 0
    place: Hashable | None = None
    since: float = 0.0
    repeated: bool = False  # another slot is or was at the same attempt
    stopped: float | None = None  # since when its process is stopped
    again: float | None = None  # when its next worker is asked for


class Slots:
    """`count` slots. Nobody sits there before `fill`; `wait` takes workers into use as soon as their model is loaded.

    Without a single worker for `timeout` seconds it gives up. On a "local" address no node can be lost but the one.
    """

    def __init__(
        self,
        count: int,
        opener: Opener,
        need: Need,
        *,
        timeout: float,
        address: str,
        spare: Sequence[Any] = (),
    ) -> None:
        self._spare = list(spare)  # actors that were asked for before
        self._need, self._timeout, self._address = need, timeout, address
        self._opener = ray.put(opener)
        self._slots = [Slot(index) for index in range(count)]
        self._failed_starts: list[float] = []  # when, since the last one that worked
        self._looked = time.monotonic()

    def __iter__(self) -> Iterator[Slot]:
        return iter(self._slots)

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def idle(self) -> list[Slot]:
        """Whose worker has started and waits for a job."""
        return [slot for slot in self._slots if slot.ready and slot.job is None]

    @property
    def busy(self) -> list[Slot]:
        """Who is at a job."""
        return [slot for slot in self._slots if slot.job is not None]

    def fill(self) -> None:
        """Asks for all workers; returns at once."""
        for slot in self._slots:
            self._start(slot)

    def send(self, slot: Slot, job: Any, attempt: int) -> None:
        """Lets an idle worker begin a job."""
        slot.job, slot.attempt, slot.place = job, attempt, place_of(job)
        slot.since, slot.repeated = time.monotonic(), False
        slot.ref = slot.actor.run.remote(job, attempt)

    @contextmanager
    def giving_up(self) -> Iterator[None]:
        """Whoever is still at a job at the end is replaced: the caller has broken off."""
        try:
            yield
        finally:
            if not connection.is_lost(
                self._address
            ):  # it would be asked for a minute, and then end this process
                for slot in self.busy:
                    self.replace(slot)

    def wait(self) -> Slot | None:
        """A slot whose job has ended, for `hear`; None when none did within a moment.

        Raises ModelError or ConfigError when no worker can start, ClusterError when Ray has ended.
        """
        by_ref = {slot.ref: slot for slot in self._slots if slot.ref is not None}
        done: list[Any] = []
        if by_ref:
            done, _ = ray.wait(list(by_ref), num_returns=1, timeout=TICK)
        else:
            time.sleep(TICK)
        if time.monotonic() - self._looked > TICK:
            self._looked = time.monotonic()
            self._look_after()
        heard = by_ref[done[0]] if done else None
        if heard is not None and not heard.ready:
            self._finish_start(heard)
            return None
        return heard

    def hear(self, slot: Slot) -> tuple[Any, Failure | None, float]:
        """(result, failure, seconds) of the job that has ended; a dead actor is replaced."""
        result = None
        try:
            result, failure, seconds = ray.get(slot.ref)
            slot.job = slot.ref = None
        except RayTaskError as error:  # outside of the worker's own care: unpicklable job or result
            failure, seconds = Failure.of(error), time.monotonic() - slot.since
            slot.job = slot.ref = None
        except RayError as error:
            failure, seconds = _death(slot, error), time.monotonic() - slot.since
            self.replace(slot)
        return result, failure, seconds

    def replace(self, slot: Slot) -> None:
        """Kills whoever sits there and asks for another. ClusterError when Ray has ended: it would be asked for a
        minute, and then end this process."""
        if connection.is_lost(self._address):
            raise connection.lost(self._address)
        ray.kill(slot.actor, no_restart=True)
        self._start(slot)

    def close(self) -> None:
        """Kills the actors."""
        if not ray.is_initialized() or connection.is_lost(self._address):
            return
        for actor in self._spare:
            ray.kill(actor, no_restart=True)
        for slot in self._slots:
            if slot.actor is not None:
                ray.kill(slot.actor, no_restart=True)
                slot.actor = slot.ref = None

    # --- beginning and end of a worker -------------------------------------------------------------------

    def _start(self, slot: Slot) -> None:
        slot.actor = self._spare.pop() if self._spare else new_actor(self._need)
        slot.ref = slot.actor.start.remote(self._opener)
        slot.since = time.monotonic()
        slot.ready, slot.job, slot.place, slot.stopped, slot.again = False, None, None, None, None
        slot.host, slot.pid = "", 0

    def _finish_start(self, slot: Slot) -> None:
        """Takes a started actor into use, or asks for another; gives up after `STARTS` failures in a row."""
        try:
            (slot.host, slot.pid), failure = ray.get(slot.ref)
        except RayError as error:
            failure = _death(slot, error)
        if failure is None:
            slot.ready, slot.ref, self._failed_starts = True, None, []
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
            ray.kill(slot.actor, no_restart=True)
            slot.ref, slot.again = None, time.monotonic() + PAUSE_SECONDS
        else:
            self.replace(slot)

    def _look_after(self) -> None:
        """Kills workers that were stopped, asks for those that are due, and gives up when not one can start."""
        if connection.is_lost(self._address):
            raise connection.lost(self._address)
        now = time.monotonic()
        for slot in self._slots:
            if slot.again is not None and now >= slot.again:
                self._start(slot)
            if slot.job is None or not _is_stopped(slot):
                slot.stopped = None
            elif slot.stopped is None:
                slot.stopped = now
            elif now - slot.stopped > STOPPED_SECONDS:
                ray.kill(slot.actor, no_restart=True)
        waited = [now - slot.since for slot in self._slots if not slot.ready]
        if len(waited) == len(self._slots) and min(waited) > self._timeout:
            raise ConfigError(
                f"no worker has started within {self._timeout:.0f} s: each needs {self._need}, and the cluster has "
                f"{connection.describe(connection.machines())}, maybe in use by others; lower cluster.workers, "
                "cluster.threads or cluster.gpus_per_worker, or try again later"
            )


def new_actor(need: Need) -> Any:
    """Asks for a worker that has opened nothing yet; returns at once."""
    asked = ray.remote(Worker).options(
        num_cpus=need.threads,
        num_gpus=need.gpus,
        max_restarts=0,  # replaced by hand: a restart inside Ray would try a bad start for ever
        max_task_retries=0,
        runtime_env=connection.runtime_env(worker_environment(need.threads, need.gpus)),
    )
    return asked.remote()


def _is_stopped(slot: Slot) -> bool:
    """Whether a signal holds the process up; only seen on this machine."""
    if slot.host != socket.gethostname():
        return False
    try:
        stat = Path(f"/proc/{slot.pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] == "T"


def _death(slot: Slot, error: RayError) -> Failure:
    detail = " ".join(str(error).split())
    who = f" (process {slot.pid} on {slot.host})" if slot.pid else ""
    why = (
        "stopped by a signal and did not go on"
        if slot.stopped
        else "killed, out of memory, or a crash in native code"
    )
    return Failure(
        kind="died",
        error=type(error).__name__,
        message=f"the worker{who} died: {why}",
        traceback=detail,
        host=slot.host,
        pid=slot.pid,
    )
