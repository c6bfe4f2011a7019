"""Jobs that a pool can be tried with: each says what happens to it, and leaves a mark of each attempt."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.errors import ScoreError
from tests.processes import wait_for


@dataclass(frozen=True)
class Deed:
    """`script`: what attempt 1, 2, ... does; the last word holds for all further attempts."""

    name: str
    task: str = "t"
    shard: int = 0
    script: tuple[str, ...] = ("fine",)


class Diary:
    """Work that writes down who did what, then does as the job says."""

    device = "testbench"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, job: Deed, attempt: int) -> dict:
        with (self.folder / "diary").open("a") as file:
            file.write(f"{job.name} {attempt} {os.getpid()}\n")
        deed = job.script[min(attempt, len(job.script)) - 1]
        match deed:
            case "raise":
                raise ZeroDivisionError("by\nzero")
            case "bad input":
                raise ScoreError("3 of 4 edge scores are not finite")
            case "disk full":
                raise OSError(28, "No space left on device")
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
            case "meet another":
                wait_for(lambda: len({line[2] for line in read(self.folder)}) > 1)
            case "hang unless repeated":
                if self._begun(job) == 1:
                    wait_for(lambda: False)
            case "stop":
                os.kill(os.getpid(), signal.SIGSTOP)
            case "stop unless repeated":
                if self._begun(job) == 1:
                    os.kill(os.getpid(), signal.SIGSTOP)
            case "fail when repeated":
                if self._begun(job) > 1:
                    raise ZeroDivisionError("the copy")
                wait_for((self.folder / "heard").exists)
        return {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")}

    def _begun(self, job: Deed) -> int:
        """How often, this time included."""
        return sum(line[0] == job.name for line in read(self.folder))


class Opener:
    """Opens a `Diary`; the first `stumbles` times in a row it does what `how` says instead."""

    def __init__(self, folder: Path, stumbles: int = 0, how: str = "raise") -> None:
        self.folder, self.stumbles, self.how = folder, stumbles, how

    def __call__(self) -> Diary:
        with (self.folder / "opened").open("a") as file:
            file.write(f"{os.getpid()}\n")
        if len(read(self.folder, "opened")) <= self.stumbles:
            Diary(self.folder)(Deed("opening", script=(self.how,)), 1)
        return Diary(self.folder)


def read(folder: Path, name: str = "diary") -> list[list[str]]:
    path = folder / name
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []
