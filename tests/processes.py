"""Processes to be killed by tests: who started whom, what they are at, and a driver with all that it starts.

Knows /proc. Does not know runs.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

GUARD_SECONDS = 900.0  # against a hang alone: whatever comes, comes sooner on however busy a machine


def wait_for(condition: Callable[[], object], pause: float = 0.02) -> object:
    """The first true value of `condition`; TimeoutError when none comes."""
    end = time.monotonic() + GUARD_SECONDS
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(pause)
    raise TimeoutError("what was waited for has not come")


def wait_to_be_interrupted() -> None:
    """Ends with a KeyboardInterrupt that somebody else brings about, or else in a failed test."""
    wait_for(lambda: False)


def parents() -> dict[int, int]:
    """Every process and its parent."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] not in "ZX":
            found[int(stat.parent.name)] = int(fields[1])
    return found


def descendants(pid: int) -> set[int]:
    tree, found = parents(), {pid}
    while more := {child for child, parent in tree.items() if parent in found} - found:
        found |= more
    return found - {pid}


def title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def open_ports(pid: int, having: str = "") -> set[int]:
    """Where a process and all that it has started listen; those whose title has these words. One that ends meanwhile
    listens nowhere."""
    import psutil

    found = set()
    for each in (pid, *descendants(pid)):
        if having in title(each):
            with suppress(psutil.NoSuchProcess):
                connections = psutil.Process(each).net_connections("tcp")
                found |= {c.laddr.port for c in connections if c.status == psutil.CONN_LISTEN}
    return found


def busy_workers(driver: int) -> list[int]:
    """Ray writes what an actor is at into its title."""
    return [pid for pid in descendants(driver) if title(pid).startswith("ray::Worker.run")]


# A shell starts its background jobs deaf to Ctrl-C, and whatever these start inherits that.
HEARING = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from flows.cli import main
sys.exit(main())
"""


class Driver:
    """`circuits run` in a process of its own, with everything that it starts."""

    def __init__(
        self,
        log: Path,
        *argv: object,
        code: str = HEARING,
        env: Mapping[str, str] | None = None,
        python: str | Path = sys.executable,
    ) -> None:
        self.log = log
        command = [str(python), "-c", code, *map(str, argv)]
        with log.open("w") as err:
            self.process = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=err, start_new_session=True, env=env
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def kill(self) -> None:
        """kill -9; returns when neither a worker nor Prefect's server is left. Takes away what would follow in a
        minute: Ray's agents."""
        started = descendants(self.pid)
        follow = {
            pid for pid in started if title(pid).startswith("ray::Worker") or "prefect.server" in title(pid)
        }
        self.process.kill()
        self.process.wait()
        wait_for(lambda: not follow & parents().keys())
        for pid in started & parents().keys():
            if "ray" in title(pid):
                os.kill(pid, signal.SIGKILL)

    def finish(self) -> tuple[int, str]:
        """Exit code, and what was printed to stderr."""
        return self.process.wait(GUARD_SECONDS), self.log.read_text()
