"""A gate at which the workers of a run wait, each with a job: what happens to the run then happens at a known place,
however busy the machine is.

Knows a run's files and how its workers open. Does not know what happens to it. A test says how many files there may be
before the gate is shut; the workers of a driver look at it before each job. Whoever has begun one by then ends it, so
that there may be one file more for each of the other workers.
"""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.store.place.where import Place, found, place
from pipeline.workers.jobs import Opener
from tests.processes import wait_for

ROOT = Path(__file__).resolve().parent.parent
SCORES = ("scores/**/*.parquet", "node_scores/**/*.parquet")

PRELUDE = """
import sys
sys.path.insert(0, {root!r})
from tests.gate import Gate
Gate({file!r}).guard()
"""


@dataclass(frozen=True)
class Gate:
    """Shut or open by what is in a file; open without one."""

    file: str

    def shut(self, run: Place, most: int, *patterns: str) -> None:
        """No job of the run begins once it has so many files, by themselves of scores."""
        written = Path(f"{self.file}.new")
        written.write_text(json.dumps([str(run), most, patterns or SCORES]))
        written.replace(self.file)

    def open(self) -> None:
        Path(self.file).unlink()

    def is_open(self) -> bool:
        try:
            run, most, patterns = json.loads(Path(self.file).read_text())
        except FileNotFoundError:
            return True
        return sum(len(found(place(run), pattern)) for pattern in patterns) < most

    def before(self, code: str) -> str:
        """The code of a driver whose workers look at the gate."""
        return PRELUDE.format(root=str(ROOT), file=self.file) + code

    def guard(self) -> None:
        """Has the workers that this process starts look at the gate."""
        from pipeline.schedule import pools

        start = pools.start_pool

        def guarded(opener: Opener, *args: Any, **options: Any) -> Any:
            return start(partial(opened, self, opener), *args, **options)

        pools.start_pool = guarded


@dataclass(frozen=True)
class Guarded:
    """What a worker does, and the gate before it."""

    gate: Gate
    work: Any

    @property
    def device(self) -> str:
        return self.work.device

    def __call__(self, job: Any, attempt: int) -> Any:
        wait_for(self.gate.is_open, pause=0.05)
        return self.work(job, attempt)


def opened(gate: Gate, opener: Opener) -> Guarded:
    return Guarded(gate, opener())
