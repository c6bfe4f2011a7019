"""A Ray cluster of several nodes on this machine, each of its own `ray start --block`, with token authentication.

Knows how nodes are started and killed. Does not know runs.
"""

import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.processes import descendants, parents, title, wait_for


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Cluster:
    """A head that holds no worker, and nodes of one CPU each; `start` brings it up, `stop` leaves no process."""

    def __init__(self, folder: Path, head_cpus: int = 0) -> None:
        self.folder, self.head_cpus = folder, head_cpus
        self.port, self.address = 0, ""
        self.head: subprocess.Popen | None = None
        self.nodes: list[subprocess.Popen] = []
        self._started: set[int] = set()
        token = folder / "token"
        token.write_text(secrets.token_hex(32))
        token.chmod(0o600)
        self.env = {
            **os.environ,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_gcs_rpc_server_reconnect_timeout_s": "10",  # a driver that has lost its head gives up after it
            "RAY_health_check_period_ms": "1000",
            "RAY_health_check_timeout_ms": "3000",
            "PYTHONPATH": str(Path(__file__).parents[1]),
        }

    def start(self, nodes: int = 2) -> None:
        (self.folder / "ray.log").touch()
        before, self.port = self._joined(), free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.head = self._ray(
            *("--head", f"--port={self.port}", f"--num-cpus={self.head_cpus}", "--include-dashboard=false"),
        )
        wait_for(lambda: self._joined() > before)
        for _ in range(nodes):
            self.add_node()

    def add_node(self) -> subprocess.Popen:
        before = self._joined()
        self.nodes.append(self._ray(f"--address={self.address}", "--num-cpus=1"))
        wait_for(lambda: self._joined() > before)
        return self.nodes[-1]

    def _joined(self) -> int:
        return (self.folder / "ray.log").read_text().count("Ray runtime started.")

    def kill_node(self, node: subprocess.Popen) -> None:
        """kill -9 of all processes of a node at once."""
        self.nodes.remove(node)
        _kill(node)

    def kill_head(self) -> None:
        assert self.head is not None
        _kill(self.head)
        self.head = None

    def stop(self) -> None:
        for process in (*self.nodes, *([self.head] if self.head else [])):
            _kill(process)
        self.nodes, self.head = [], None

    def workers(self) -> list[int]:
        """The processes of actors, busy or not, on all nodes."""
        started = {pid for node in (*self.nodes, self.head) if node for pid in descendants(node.pid)}
        return sorted(pid for pid in started if title(pid).startswith("ray::Worker"))

    def _ray(self, *options: str) -> subprocess.Popen:
        ray = Path(sys.executable).with_name("ray")
        fixed = [
            "--node-ip-address=127.0.0.1",
            "--object-store-memory=100000000",
            "--disable-usage-stats",
            "--block",
        ]
        with (self.folder / "ray.log").open("a") as log:
            return subprocess.Popen(
                [str(ray), "start", *options, *fixed],
                env=self.env,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )


def _kill(process: subprocess.Popen) -> None:
    """kill -9 of a process and all that it has started; they are stopped first, so that none starts another."""
    tree = {process.pid}
    for _ in range(2):
        tree |= descendants(process.pid)
        for pid in tree:
            _signal(pid, signal.SIGSTOP)
    for pid in tree:
        _signal(pid, signal.SIGKILL)
    process.wait()
    wait_for(lambda: not tree & parents().keys())


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


@contextmanager
def cluster(folder: Path, nodes: int = 2) -> Iterator[Cluster]:
    """A running cluster."""
    made = Cluster(folder)
    try:
        made.start(nodes)
        yield made
    finally:
        made.stop()
