"""What a pool and its caller exchange: jobs, outcomes, failures; and in which order jobs are handed out.

Knows attempts and kinds of failure. Does not know Ray, models or files.
"""

import errno
import os
import platform
import resource
import socket
import sys
import time
import traceback
from collections import OrderedDict, deque
from collections.abc import Callable, Generator, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from pipeline.core.errors import CircuitsError, StorageError

NO_SPACE = {errno.ENOSPC, errno.EDQUOT}
UNSTEADY = {
    getattr(errno, name)
    for name in (
        *("EIO", "ESTALE", "EREMOTEIO", "ETIMEDOUT", "EAGAIN", "EBUSY", "EPIPE", "EHOSTUNREACH", "EHOSTDOWN"),
        *("ENETUNREACH", "ENETDOWN", "ENETRESET", "ECONNRESET", "ECONNREFUSED", "ECONNABORTED", "ENOTCONN"),
    )
    if hasattr(errno, name)
}  # another attempt may well succeed


Work = Callable[[Any, int], Any]  # (job, attempt) -> result: what a worker does
Opener = Callable[[], Work]  # called once in the worker's process: loads the model

# input: the data or the config is bad, another attempt would fail alike; error: any other exception;
# died: the process is gone; io: a disk or network failed at that moment; storage: results cannot be written, so that no
# other item can land either.
FailureKind = Literal["input", "error", "died", "io", "storage"]


@dataclass(frozen=True)
class Failure:
    """Why an attempt gave no result; strings and numbers only, so that it travels and is written as it is."""

    kind: FailureKind
    error: str
    message: str
    traceback: str = ""
    host: str = ""
    pid: int = 0
    device: str = ""
    peak_memory_bytes: int = 0

    @staticmethod
    def of(error: BaseException, device: str = "") -> "Failure":
        """The failure that an exception of this process means."""
        return Failure(
            kind=failure_kind(error),
            error=type(error).__name__,
            message=" ".join(str(error).split()) or type(error).__name__,
            traceback="".join(traceback.format_exception(error)),
            host=socket.gethostname(),
            pid=os.getpid(),
            device=device or platform.machine(),
            peak_memory_bytes=process_peak_memory(),
        )


def failure_kind(error: BaseException) -> FailureKind:
    """What an exception means for further attempts."""
    if isinstance(error, StorageError):
        return "storage"
    if isinstance(error, CircuitsError):
        return "input"
    numbers = set()
    link: BaseException | None = error
    while link is not None:
        numbers |= {link.errno} if isinstance(link, OSError) else set()
        link = link.__cause__ or link.__context__
    if numbers & NO_SPACE or os.strerror(errno.ENOSPC) in str(error):
        return "storage"
    return "io" if numbers & UNSTEADY else "error"


def process_peak_memory() -> int:
    """Largest resident size of this process so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@dataclass(frozen=True)
class Outcome:
    """How one attempt at a job ended. Without `final` the job will be tried again by itself."""

    job: Any
    attempt: int
    seconds: float
    worker: int
    result: Any = None
    failure: Failure | None = None
    final: bool = True


@runtime_checkable
class Pool(Protocol):
    """Workers that hold a model each. `LocalPool` and `RayPool` are the two kinds."""

    @property
    def size(self) -> int: ...

    def run(
        self, jobs: Sequence[Any], *, attempts: int = 1, tried: Mapping[Any, int] | None = None
    ) -> Generator[Outcome, None, None]:
        """Outcomes as they come. A job gets up to `attempts` attempts, numbered from `tried[job] + 1`.

        Closing the iterator early gives up what is under way. Raises CircuitsError when no worker can start.
        """
        ...

    def together(self, jobs: Mapping[int, Any]) -> dict[int, Outcome]:
        """Job i at worker i (of `size`), all at the same time; returns when every one has ended. A worker that
        dies gives a failure and is replaced; nothing is tried again."""
        ...

    def close(self) -> None: ...


def attempt(work: Work, job: Any, number: int) -> tuple[Any, Failure | None, float]:
    """(result, failure, seconds) of one attempt in this process."""
    start = time.perf_counter()
    try:
        result, failure = work(job, number), None
    except Exception as error:  # noqa: BLE001 - whatever it is, the next job deserves its turn
        result, failure = None, Failure.of(error, getattr(work, "device", ""))
    return result, failure, time.perf_counter() - start


class Budget:
    """How many attempts each job has had, and whether a failed one gets another."""

    def __init__(self, attempts: int, tried: Mapping[Any, int] | None = None) -> None:
        self._attempts = attempts
        self._before = dict(tried or {})
        self._used: dict[Any, int] = {}

    def begin(self, job: Any) -> int:
        """Number of the attempt that begins now, counted over all submissions."""
        self._used[job] = self._used.get(job, 0) + 1
        return self._before.get(job, 0) + self._used[job]

    def is_final(self, job: Any, failure: Failure | None) -> bool:
        if failure is None or failure.kind in ("input", "storage"):
            return True
        return self._used[job] >= self._attempts


class Queue:
    """Pending jobs in the order given, but a worker stays with its (task, shard) as long as that has jobs.

    A free worker takes from its own place first, then from the first place that no other worker is at, then,
    so that nobody idles at the end, from the first place of all.
    """

    def __init__(self, jobs: Sequence[Any]) -> None:
        self._places: OrderedDict[Hashable, deque[Any]] = OrderedDict()
        for job in jobs:
            self._places.setdefault(place_of(job), deque()).append(job)

    def __bool__(self) -> bool:
        return bool(self._places)

    def take(self, own: Hashable | None, taken: set[Hashable]) -> Any:
        """The next job for a worker that was last at `own` while others are at `taken`."""
        place = own
        if own not in self._places:
            free = (place for place in self._places if place not in taken)
            place = next(free, next(iter(self._places)))
        job = self._places[place].popleft()
        if not self._places[place]:
            del self._places[place]
        return job

    def put_back(self, job: Any) -> None:
        """Another attempt, before whatever else its place has left."""
        place = place_of(job)
        self._places.setdefault(place, deque()).appendleft(job)
        self._places.move_to_end(place, last=False)


def place_of(job: Any) -> Hashable:
    """What a worker keeps at hand for this job."""
    return (job.task, job.shard)
