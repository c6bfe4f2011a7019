"""The driver of a run under test: items take a moment longer, and a share of all writes fails.

`python -m tests.chaos.driver CONFIG RUN SECONDS SHARE`; exits as `circuits run` does. Prefect plays no part here.
"""

import errno
import random
import sys
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import RunConfig
from pipeline.core.items import Item
from pipeline.schedule.conduct import conduct, settle
from pipeline.schedule.pools import start_pool, worker_opener
from pipeline.schedule.preparing import prepare
from pipeline.store.place import atomic
from pipeline.workers.jobs import Opener


@dataclass(frozen=True)
class Slow:
    """Opens the same work, which then waits before every item, on a store that fails."""

    opener: Opener
    seconds: float
    share: float

    def __call__(self) -> "Slowly":
        fail_writes(self.share)
        return Slowly(self.opener(), self.seconds)


class Slowly:
    def __init__(self, work: Any, seconds: float) -> None:
        self._work, self._seconds = work, seconds

    @property
    def device(self) -> str:
        return self._work.device

    def __call__(self, job: Any, attempt: int) -> Any:
        if isinstance(job, Item):
            time.sleep(self._seconds)
        return self._work(job, attempt)


def fail_writes(share: float) -> None:
    """From here on this share of the files of this process does not reach the disk."""
    real, chance = atomic._fsync, random.Random()

    def fsync(path: Path) -> None:
        if path.is_file() and chance.random() < share:
            raise OSError(errno.EIO, "Input/output error", str(path))
        real(path)

    atomic._fsync = fsync


def main() -> int:
    config, run, seconds, share = sys.argv[1:]
    fail_writes(float(share))
    with closing(prepare(RunConfig.load(config), run)) as session:
        if not settle(session):
            opener = Slow(worker_opener(session), float(seconds), float(share))
            with closing(start_pool(opener, session.plan, local=False)) as pool:
                conduct(session, pool, lambda event: print(event.kind, event.text, flush=True))
        return 0 if session.is_complete and session.stopped is None else 3


if __name__ == "__main__":
    sys.exit(main())
