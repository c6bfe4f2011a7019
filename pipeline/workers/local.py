"""The pool without processes: one worker, here and now. For tests, debuggers and `--local`.

Knows how to try a job again. Does not know what a job is.
"""

from collections.abc import Generator, Mapping, Sequence
from typing import Any

from pipeline.workers.jobs import Budget, Opener, Outcome, Queue, Work, attempt, place_of


class LocalPool:
    """Runs every job in the calling process, one after the other; the model is loaded at the first."""

    size = 1

    def __init__(self, opener: Opener) -> None:
        self._opener = opener
        self._work: Work | None = None

    def run(
        self, jobs: Sequence[Any], *, attempts: int = 1, tried: Mapping[Any, int] | None = None
    ) -> Generator[Outcome, None, None]:
        """See `Pool.run`. An exception of the opener is raised as it is."""
        budget, queue, place = Budget(attempts, tried), Queue(jobs), None
        while queue:
            job = queue.take(place, set())
            place = place_of(job)
            if self._work is None:
                self._work = self._opener()
            number = budget.begin(job)
            result, failure, seconds = attempt(self._work, job, number)
            final = budget.is_final(job, failure)
            if not final:
                queue.put_back(job)
            yield Outcome(job, number, seconds, 0, result, failure, final)

    def together(self, jobs: Mapping[int, Any]) -> dict[int, Outcome]:
        """See `Pool.together`."""
        if self._work is None:
            self._work = self._opener()
        outcomes = {}
        for slot, job in jobs.items():
            result, failure, seconds = attempt(self._work, job, 1)
            outcomes[slot] = Outcome(job, 1, seconds, slot, result, failure)
        return outcomes

    def close(self) -> None:
        self._work = None
