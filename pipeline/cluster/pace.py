"""How long jobs take, and which one takes so much longer than its like that another worker should try.

Knows seconds and names. Does not know workers.
"""

from collections import deque
from statistics import median
from typing import Any

LEAST_SECONDS = 10.0  # nothing is late before: repeating it would cost as much
_LIKE = 3  # so many jobs make a measure
_KEPT = 101  # of each kind, so that memory stays flat


class Pace:
    """Seconds of finished jobs by kind: jobs of one method on one task are alike. A job is late after `factor` times
    the median of its like, or, before there are any, the longest of all others; with a factor of 0 never."""

    def __init__(self, factor: float) -> None:
        self._factor = factor
        self._by_kind: dict[str, deque[float]] = {}
        self._all: deque[float] = deque(maxlen=_KEPT)

    def note(self, job: Any, seconds: float) -> None:
        """A job has finished."""
        self._by_kind.setdefault(_kind(job), deque(maxlen=_KEPT)).append(seconds)
        self._all.append(seconds)

    def is_late(self, job: Any, seconds: float) -> bool:
        """Whether a job that has been at work for so long is a straggler."""
        if not self._factor or len(self._all) < _LIKE:
            return False
        like = self._by_kind.get(_kind(job), ())
        usual = median(like) if len(like) >= _LIKE else max(self._all)
        return seconds > max(LEAST_SECONDS, self._factor * usual)


def _kind(job: Any) -> str:
    """The name without the shard."""
    return str(job.name).rpartition("/")[0]
