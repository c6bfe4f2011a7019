"""The loop that feeds Ray actors, one per model replica.

Knows who is idle, what is late and what belongs together. Does not know what a job is, nor how actors start and end:
`slots` does. The loop keeps one job in flight per actor: a second one waiting in the actor's own queue would be charged
an attempt when the actor dies on the first.
"""

import os
import time
from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # before Ray is imported anywhere: nothing is reported

import ray

from pipeline.cluster import connection
from pipeline.cluster.actor import worker_environment
from pipeline.cluster.early import taken_over
from pipeline.cluster.pace import Pace
from pipeline.cluster.slots import Slot, Slots
from pipeline.core.machines import Need, capacity
from pipeline.workers.jobs import Budget, Failure, Opener, Outcome, Queue

START_TIMEOUT = 900.0  # seconds without a single worker; another user of the cluster may hold what there is
# How long jobs that belong together wait for workers that a cluster has lost the place for.
PLACE_SECONDS = 30.0


class RayPool:
    """Actors that open their work once and take one job each: `workers`, or with None as many as fit.

    Starting is asynchronous: the constructor returns when Ray runs and the actors are asked for; `run` uses each as
    soon as its model is loaded, also one whose machine joins the cluster later. A dead actor is replaced. If Ray is
    already up in this process it is used and left running; one that is on its way (`early`) is taken over.
    `stragglers`: see `Pace`.
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
        self._pace = Pace(stragglers)
        self._bound: dict[int, Slot] = {}  # who took which of the jobs that belong together
        with ExitStack() as begun:  # ended again where the rest cannot begin
            spare = taken_over(address, self._need, begun)
            if not ray.is_initialized():
                cpus = (workers or 1) * self._need.threads
                variables = worker_environment(self._need.threads, self._need.gpus)
                begun.enter_context(connection.connected(address, cpus, variables))
            with connection.answering(address):
                wanted = connection.decide(workers, self._need, address, grows=wait_minutes > 0)
                timeout = max(START_TIMEOUT, 60 * wait_minutes)
                self._slots = Slots(wanted, opener, self._need, timeout=timeout, address=address, spare=spare)
                begun.callback(self._slots.close)
                self._slots.fill()
            self._begun = begun.pop_all()

    @property
    def size(self) -> int:
        """How many workers there is room for now, of those asked for."""
        if self._address == "local":
            return len(self._slots)
        with connection.answering(self._address):
            room = capacity(connection.machines(), connection.need_of_ray(self._need))
        return max(1, min(room, len(self._slots)))

    def run(
        self, jobs: Sequence[Any], *, attempts: int = 1, tried: Mapping[Any, int] | None = None
    ) -> Generator[Outcome, None, None]:
        """See `Pool.run`. A straggler near the end is begun by an idle worker too, as the same attempt; who is
        first counts, and the other is replaced."""
        budget, queue = Budget(attempts, tried), Queue(jobs)
        with self._slots.giving_up():
            while queue or self._slots.busy:
                with connection.answering(self._address):
                    self._feed(queue, budget)
                    heard = self._slots.wait()
                    outcome = None if heard is None else self._finish(heard, budget)
                if outcome is None:
                    continue
                if not outcome.final:
                    queue.put_back(outcome.job)
                yield outcome

    def together(self, jobs: Mapping[int, Any]) -> dict[int, Outcome]:
        """See `Pool.together`. A job for which the cluster has lost the place fails as one whose worker died."""
        with connection.answering(self._address):
            slots = self._bind(jobs)
            outcomes = {
                index: Outcome(job, 1, 0.0, index, None, _no_place(self._need))
                for index, job in jobs.items()
                if index not in slots
            }
        with connection.answering(self._address), self._slots.giving_up():
            for index, slot in slots.items():
                self._slots.send(slot, jobs[index], 1)
            indices = {slot: index for index, slot in slots.items()}
            while self._slots.busy:
                heard = self._slots.wait()
                if heard is not None:
                    index = indices[heard]
                    result, failure, seconds = self._slots.hear(heard)
                    outcomes[index] = Outcome(jobs[index], 1, seconds, index, result, failure)
        return outcomes

    def close(self) -> None:
        """Kills the actors, and Ray with them if this pool started it."""
        self._begun.close()

    # --- one job each ------------------------------------------------------------------------------------

    def _feed(self, queue: Queue, budget: Budget) -> None:
        """Gives every idle worker the next job, or at the end one that is late elsewhere."""
        for slot in self._slots.idle:
            if queue:
                job = queue.take(slot.place, {other.place for other in self._slots.busy})
                self._slots.send(slot, job, budget.begin(job))
            elif (late := self._straggler()) is not None:
                self._slots.send(slot, late.job, late.attempt)
                late.repeated = slot.repeated = True

    def _straggler(self) -> Slot | None:
        """The slot whose job is late and was not begun anywhere else; the longest at work first."""
        now = time.monotonic()
        begun = sorted((slot for slot in self._slots.busy if not slot.repeated), key=lambda slot: slot.since)
        return next((slot for slot in begun if self._pace.is_late(slot.job, now - slot.since)), None)

    def _finish(self, slot: Slot, budget: Budget) -> Outcome | None:
        """How a job has ended; None when it failed here and goes on elsewhere."""
        job, attempt = slot.job, slot.attempt
        twins = [other for other in self._slots.busy if other is not slot and other.job == job]
        result, failure, seconds = self._slots.hear(slot)
        final = budget.is_final(job, failure)
        if failure is not None and twins and failure.kind not in ("input", "storage"):
            return None
        for twin in twins:
            self._slots.replace(twin)
        if failure is None:
            self._pace.note(job, seconds)
        return Outcome(job, attempt, seconds, slot.index, result, failure, final)

    # --- jobs that belong together -----------------------------------------------------------------------

    def _bind(self, indices: Collection[int]) -> dict[int, Slot]:
        """A started worker for every index: the same as before, unless it was replaced. Some may stay without
        where the cluster has shrunk."""
        since = time.monotonic()
        while True:
            self._bound = {index: slot for index, slot in self._bound.items() if slot.ready}
            free = [slot for slot in self._slots.idle if slot not in self._bound.values()]
            missing = [index for index in indices if index not in self._bound]
            self._bound |= dict(zip(missing, free, strict=False))
            waited = time.monotonic() - since
            placed = {index: self._bound[index] for index in indices if index in self._bound}
            if len(placed) == len(indices) or (waited > PLACE_SECONDS and len(placed) >= self.size):
                return placed
            if not free:  # maybe all sit at jobs of a search that had more workers
                size = self.size
                self._bound = {i: slot for i, slot in self._bound.items() if i < size or i in indices}
            self._slots.wait()


def _no_place(need: Need) -> Failure:
    has = connection.describe(connection.machines())
    return Failure("died", "NoPlaceError", f"no place with {need} for the worker: the cluster has {has}")
