"""A Prefect server with a password and a worker, started with the scripts of infra/prefect.

Knows how they are started and asked. Does not know what the deployments run.
"""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from tests.infra.nodes import ROOT, bin_on_path, free_block
from tests.processes import GUARD_SECONDS


class Service:
    """Server and worker, what they were started with, and where they write."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_block()
        self.url = f"http://127.0.0.1:{self.port}/api"
        self.password = folder / "password"
        subprocess.run([ROOT / "infra" / "token.sh", self.password], check=True, capture_output=True)
        unset = {"PREFECT_API_URL", "PREFECT_API_AUTH_STRING", "PREFECT_SERVER_API_AUTH_STRING"}
        self.bare = {key: value for key, value in bin_on_path().items() if key not in unset}
        self.env = self.bare | {
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_API_URL": self.url,
            "PREFECT_LOGGING_LEVEL": "INFO",
            "CIRCUITS_PREFECT_PASSWORD": str(self.password),
        }
        self.processes: list[subprocess.Popen] = []

    def start(self, script: str, *argv: str) -> None:
        self.start_command(script, ROOT / "infra" / "prefect" / script, *argv)

    def start_command(self, name: str, *words: object) -> None:
        with (self.folder / f"{name}.log").open("w") as log:
            self.processes.append(
                subprocess.Popen(words, env=self.env, stdout=log, stderr=log, start_new_session=True)
            )

    def wait_for(self, condition) -> None:
        end = time.monotonic() + GUARD_SECONDS
        while not condition():
            assert time.monotonic() < end, "nothing came of what was waited for"
            assert all(process.poll() is None for process in self.processes), self.logs()
            time.sleep(0.2)

    def logs(self) -> str:
        return "".join(path.read_text() for path in self.folder.glob("*.log"))

    def stop(self) -> None:
        for process in reversed(self.processes):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(GUARD_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def submit(service, *argv, **env):
    words = [sys.executable, "-m", "flows.cli", "submit", *map(str, argv), "--to", "prefect", "--json"]
    done = subprocess.run(
        [*words, "--address", service.url],
        env=service.bare | {"PREFECT_HOME": str(service.folder / "client")} | env,
        capture_output=True,
        text=True,
        timeout=GUARD_SECONDS,
        check=False,
    )
    return done.returncode, json.loads(done.stdout or "null"), done.stderr
