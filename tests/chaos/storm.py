"""A run of 200 items on a cluster of two nodes, under seeded faults, submitted again whenever its driver has ended.

Knows how to hurt. What has to hold at the end is the same bytes as of the undisturbed run, and every item once.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing, suppress
from pathlib import Path

import yaml

from pipeline import RunConfig, discover, load_scores, open_run
from tests.nodes import Cluster
from tests.processes import GUARD_SECONDS, parents, wait_for
from tests.runs import content, score_files, toy_mapping

ITEMS = 200
SHARDS = 50
FAILING_WRITES = 0.05
STOPPED_SECONDS = 12.0  # longer than the heartbeat of the lock
DISK = "24m"
REOPENED = 40  # items that are damaged when all are done and faults are left

KINDS = (
    "kill -9 of a worker",
    "kill -9 of the driver",
    "truncated files",
    "flipped bits",
    "kill -9 of a worker",
    "SIGSTOP of a worker for good",
    "full disk",
    "kill -9 of a node",
    "kill -9 of the driver",
    "SIGSTOP of a worker for 12 s",
    "SIGSTOP of the driver for 12 s",
    "truncated files",
    "flipped bits",
)
RARE = "kill -9 of the head"  # everything has to be started anew: once in 25 faults


def faults_of(count: int, seed: int) -> list[str]:
    """Which faults, in which order."""
    kinds = [RARE if i % 25 == 24 else KINDS[i % len(KINDS)] for i in range(count)]
    random.Random(seed).shuffle(kinds)
    return kinds


class Storm:
    """One run and all that happens to it."""

    def __init__(self, folder: Path, count: int, seed: int) -> None:
        self.folder, self.kinds, self.chance = folder, faults_of(count, seed), random.Random(seed + 1)
        self.seconds = min(
            3.0, max(0.1, 0.025 * count)
        )  # so that there is work for as long as there are faults
        self.disk = folder / "disk"
        self.run = self.disk / "run"
        self.cluster = Cluster(folder)
        self.driver: subprocess.Popen | None = None
        self.stopped: list[tuple[float, int]] = []  # when to go on, process
        self.rows: list[tuple[str, list[int]]] = []  # fault, how drivers ended after it
        self.submissions = 0

    # --- the run -----------------------------------------------------------------------------------------

    def config(self, output: Path, **cluster: object) -> dict:
        return toy_mapping(
            output,
            tasks=[{"name": "induction", "count": 4 * SHARDS}],
            methods=[{"name": "eap"}, {"name": "eap_ig", "steps": 3}, {"name": "node_patching"}],
            shards={"prompts": 4},
            evaluate={"edge_fractions": [0.1, 1.0]},
            failures={"tolerate": 1.0},
            cluster={"workers": 2, **cluster},
        )

    def submit(self) -> None:
        """The next driver, if the last one has ended."""
        if self.driver is not None:
            code = self.driver.poll()
            if code is None:
                return
            if self.rows:
                self.rows[-1][1].append(code)
        path = self.folder / "config.yaml"
        path.write_text(yaml.safe_dump(self.config(self.disk, address=self.cluster.address)))
        words = [str(path), str(self.run), str(self.seconds), str(FAILING_WRITES)]
        with (self.folder / "driver.log").open("a") as log:
            print(f"--- submission {self.submissions + 1}", file=log, flush=True)
            self.driver = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.driver", *words],
                env=self.cluster.env, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self.submissions += 1

    def landed(self) -> list[Path]:
        return sorted([*score_files(self.run), *self.run.glob("prompt_metrics/**/[!_.]*.parquet")])

    def at_work(self) -> None:
        """Returns when a driver is at work and something has landed since; gives it more to do when all is done."""
        before = len(self.landed())
        end = time.monotonic() + GUARD_SECONDS
        while time.monotonic() < end:
            self.wake()
            if self.driver is not None and self.driver.poll() == 0:
                self.damage(REOPENED)
            self.submit()
            now = len(self.landed())
            if now != before and self.cluster.workers() and self.driver.poll() is None:
                return
            before = min(before, now)
            time.sleep(0.1)

    def wake(self) -> None:
        """Lets go on what was stopped for a time that is over."""
        now = time.monotonic()
        for when, pid in self.stopped:
            if when <= now:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
        self.stopped = [(when, pid) for when, pid in self.stopped if when > now]

    # --- faults ------------------------------------------------------------------------------------------

    def hurt(self, kind: str) -> None:
        match kind:
            case "kill -9 of a worker":
                self.signal_worker(signal.SIGKILL)
            case "SIGSTOP of a worker for good":
                self.signal_worker(signal.SIGSTOP)
            case "SIGSTOP of a worker for 12 s":
                self.stopped += [
                    (time.monotonic() + STOPPED_SECONDS, pid) for pid in self.signal_worker(signal.SIGSTOP)
                ]
            case "kill -9 of the driver":
                self.driver.kill()
                self.driver.wait()
            case "SIGSTOP of the driver for 12 s":
                self.driver.send_signal(signal.SIGSTOP)
                time.sleep(STOPPED_SECONDS)
                self.driver.send_signal(signal.SIGCONT)
            case "kill -9 of a node":
                self.cluster.kill_node(self.chance.choice(self.cluster.nodes))
                self.cluster.add_node()
            case "kill -9 of the head":
                self.cluster.kill_head()
                self.cluster.stop()
                self.driver.wait(GUARD_SECONDS)
                self.cluster.start()
            case "full disk":
                self.fill_disk()
            case "truncated files":
                self.damage(3)
            case "flipped bits":
                for path in self.some(3):
                    data = bytearray(path.read_bytes())
                    at = self.chance.randrange(8 * len(data))
                    data[at // 8] ^= 1 << at % 8
                    path.write_bytes(data)

    def signal_worker(self, number: signal.Signals) -> list[int]:
        pids = self.cluster.workers()
        chosen = self.chance.sample(pids, min(1, len(pids)))
        for pid in chosen:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        return chosen

    def damage(self, count: int) -> None:
        for path in self.some(count):
            os.truncate(path, self.chance.randrange(path.stat().st_size))

    def some(self, count: int) -> list[Path]:
        files = self.landed()
        return self.chance.sample(files, min(count, len(files)))

    def fill_disk(self) -> None:
        """Until the driver has ended over it, or for some seconds if it has nothing to write."""
        ballast = self.disk / "ballast"
        with suppress(OSError), ballast.open("wb") as file:
            while True:
                file.write(bytes(4096))
                file.flush()
        with suppress(subprocess.TimeoutExpired):
            self.driver.wait(20)
        ballast.unlink()

    # --- all of it ---------------------------------------------------------------------------------------

    def blow(self) -> None:
        """Every fault, one after the other; then submissions until the run is complete and every file whole."""
        self.cluster.start()
        for number, kind in enumerate(self.kinds, start=1):
            self.at_work()
            self.rows.append((kind, []))
            done = len(self.landed())
            self.hurt(kind)
            print(
                f"{number:3d}/{len(self.kinds)} {kind} at {done} items, submission {self.submissions}",
                flush=True,
            )
        for pid in {pid for _, pid in self.stopped}:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        end = time.monotonic() + GUARD_SECONDS
        while True:
            self.submit()
            assert time.monotonic() < end, (self.folder / "driver.log").read_text()[-3000:]
            code = self.driver.wait(GUARD_SECONDS)
            if code == 0 and len(open_run(self.run).directory.done(deep=True, rename=False)) == ITEMS:
                self.rows[-1][1].append(code)
                return

    def check(self) -> None:
        """The same bytes as undisturbed; every item, prompt and shard once."""
        config = RunConfig.from_mapping(self.config(self.folder / "undisturbed"))
        calm = discover(config, local=True)
        for folder in ("aggregate", "node_aggregate"):
            assert content(self.run / folder) == content(calm.path / folder) != {}, folder
        assert (self.run / "faithfulness.parquet").read_bytes() == (
            calm.path / "faithfulness.parquet"
        ).read_bytes()
        run = open_run(self.run)
        assert run.status()["complete"]
        footers = run.footers()
        assert len(footers) == footers.item.nunique() == footers.item_key.nunique() == ITEMS
        scores = load_scores(self.run)
        assert set(scores.n_shards) == {SHARDS}
        assert set(scores.n_prompts) == {4 * SHARDS}

    def table(self) -> str:
        """Faults, how often, and how drivers ended between one and the next fault."""
        lines = [f"{'fault':34s} {'times':>5s}  drivers that ended before the next fault (exit code: times)"]
        for kind in dict.fromkeys(kind for kind, _ in self.rows):
            codes = Counter(code for other, ended in self.rows if other == kind for code in ended)
            said = ", ".join(f"{code}: {times}" for code, times in sorted(codes.items())) or "none"
            lines.append(f"{kind:34s} {sum(other == kind for other, _ in self.rows):5d}  {said}")
        lines.append(f"{FAILING_WRITES:.0%} of all writes failed throughout; {self.submissions} submissions")
        return "\n".join(lines)

    def close(self) -> None:
        for _, pid in self.stopped:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        if self.driver is not None and self.driver.poll() is None:
            self.driver.kill()
            self.driver.wait()
        workers = set(self.cluster.workers())
        self.cluster.stop()
        wait_for(lambda: not workers & parents().keys())


def blow(folder: Path, count: int, seed: int) -> str:
    """The table of faults of a run that has withstood them; AssertionError for one that has not."""
    disk = folder / "disk"
    disk.mkdir(parents=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(disk)], check=False)
    if mounted.returncode:
        raise PermissionError("a disk of its own, to be filled, may not be mounted here; run as root")
    try:
        with closing(Storm(folder, count, seed)) as storm:
            storm.blow()
            storm.check()
            return storm.table()
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
