"""Nodes of a Ray cluster, started with the scripts of infra/ray, each in a process group of its own."""

import atexit
import os
import random
import shlex
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil

from tests.gate import Gate
from tests.processes import GUARD_SECONDS

ROOT = Path(__file__).resolve().parent.parent.parent
SCRIPTS = ROOT / "infra" / "ray"
HOLD = 9  # the port of a block at which nobody listens: whoever is bound to it has the block


def bin_on_path() -> dict[str, str]:
    """The environment with this Python's commands first, and this tree before an installed one."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}


def free_block() -> int:
    """First of 200 ports below the ephemeral ones, the first nine of which are free; no process gets it while this one
    lasts, although whoever is to listen there may not do so for seconds."""
    for _ in range(100):
        first = random.randrange(20_000, 32_000, 200)
        hold = socket.socket()
        try:
            hold.bind(("127.0.0.1", first + HOLD))
        except OSError:
            hold.close()
            continue
        atexit.register(hold.close)
        if all(not answers(first + offset) for offset in range(HOLD)):
            return first
    raise RuntimeError("no free block of ports")


def answers(port: int, host: str = "127.0.0.1") -> bool:
    with socket.socket() as knock:
        knock.settimeout(2)
        return knock.connect_ex((host, port)) == 0


# What the command of a job finds on a node's path.
GUARDED_PYTHON = """\
#!/bin/sh
[ "$1 $2" = "-m flows.sweep" ] || exec {python} "$@"
shift 2
exec {python} -c {code} "$@"
"""
SWEEP = "import runpy\nrunpy.run_module('flows.sweep', run_name='__main__', alter_sys=True)"


class Nodes:
    """A head and any number of workers, and their ports; the workers of jobs look at the gate."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.token = folder / "token"
        subprocess.run([ROOT / "infra" / "token.sh", self.token], check=True, capture_output=True)
        first = free_block()
        self.gcs, self.dashboard = first + 6, first + 7
        self.head_ports = first
        self.gate = Gate(str(folder / "gate"))
        python = folder / "bin" / "python"
        python.parent.mkdir()
        code = shlex.quote(self.gate.before(SWEEP))
        python.write_text(GUARDED_PYTHON.format(python=shlex.quote(sys.executable), code=code))
        python.chmod(0o755)
        self.processes: list[subprocess.Popen] = []
        self.blocks: list[int] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.dashboard}"

    @property
    def env(self) -> dict[str, str]:
        """What the scripts read; Ray's own niceness would starve a job on a machine that others use."""
        inherited = bin_on_path()
        return inherited | {
            "PATH": f"{self.folder / 'bin'}:{inherited['PATH']}",
            "RAY_AUTH_TOKEN_PATH": str(self.token),
            "RAY_worker_niceness": "0",
            "CIRCUITS_HEAD_PORT": str(self.gcs),
            "CIRCUITS_DASHBOARD": str(self.dashboard),
        }

    def start(
        self, script: str, ports: int, *argv: str, within: str = "", address: str = "127.0.0.1"
    ) -> subprocess.Popen:
        """A node at `address`, of this machine or of the network namespace `within`."""
        there = ["ip", "netns", "exec", within] if within else []
        log = self.folder / f"{script}-{len(self.processes)}.log"
        with log.open("w") as out:
            process = subprocess.Popen(
                [*there, SCRIPTS / script, *argv],
                env=self.env | {"CIRCUITS_NODE_PORTS": str(ports), "CIRCUITS_NODE_IP": address},
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.processes.append(process)
        self.blocks.append(ports)
        end = time.monotonic() + GUARD_SECONDS
        while "untime started" not in log.read_text():
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(log.read_text()[-2000:])
            time.sleep(0.2)
        return process

    def start_head(self, *argv: str, **where: str) -> subprocess.Popen:
        return self.start("head.sh", self.head_ports, "--object-store-memory=80000000", *argv, **where)

    def start_worker(self, *argv: str, head: str = "127.0.0.1", **where: str) -> subprocess.Popen:
        words = (f"{head}:{self.gcs}", "--object-store-memory=80000000", *argv)
        return self.start("worker.sh", free_block(), *words, **where)

    def stop(self) -> None:
        """SIGTERM to every node that is left, the head last; SIGKILL to the group of one that stays."""
        for process in reversed(self.processes):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in reversed(self.processes):
            try:
                process.wait(timeout=40)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def lose(self, process: subprocess.Popen) -> None:
        """A node that is gone without a word: kill -9 of everything that it has started."""
        node = psutil.Process(process.pid)
        for each in (*node.children(recursive=True), node):
            with suppress(psutil.NoSuchProcess):
                each.kill()
        process.wait()


def listening() -> dict[int, set[str]]:
    """Every listening TCP port with its addresses, as the kernel says (/proc/net/tcp)."""
    found: dict[int, set[str]] = {}
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                address, port = fields[1].split(":")
                found.setdefault(int(port, 16), set()).add(address)
    return found
