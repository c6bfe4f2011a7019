"""Jobs on a Ray cluster: hand one in, ask how it is, read its log, stop it.

Knows Ray's Jobs API and its token. Does not know configs or runs: a job is a command with a folder of files.
The environment that a job runs in is the cluster's own: nothing is installed for it.
"""

import json
import logging
import os
import socket
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pipeline.cluster.private import tell_ray
from pipeline.core.errors import ConfigError

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
TOKEN_PATH = "~/.ray/auth_token"  # noqa: S105 - where Ray looks for it
JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # how a job hands its environment to the driver in it
KNOCK = 10.0  # seconds in which a cluster must take a connection


@dataclass(frozen=True)
class JobState:
    """How a job is: Ray's word for it, and once it is over its exit code where it has one."""

    word: str  # PENDING, RUNNING, SUCCEEDED, FAILED, STOPPED
    exit_code: int | None = None
    message: str = ""

    @property
    def is_over(self) -> bool:
        return self.word in ("SUCCEEDED", "FAILED", "STOPPED")


class Cluster:
    """The Jobs API of the cluster at an address. Raises ConfigError, in one line, where it does not answer."""

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        _knock(self.address)
        require_token()
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        from ray.job_submission import JobSubmissionClient

        tell_ray()
        for name in ("ray.dashboard.modules.dashboard_sdk", "ray._private.runtime_env.packaging"):
            logging.getLogger(name).setLevel(logging.ERROR)
        with _explained(self.address):
            self._client: Any = JobSubmissionClient(self.address)

    def submit(self, command: str, folder: Path, environment: Mapping[str, str]) -> str:
        """Hands in `command`, to be run by a shell in a copy of `folder`; returns the job's id."""
        runtime = {"working_dir": str(folder), "env_vars": dict(environment)}
        with _explained(self.address):
            return str(self._client.submit_job(entrypoint=command, runtime_env=runtime))

    def state(self, job: str) -> JobState:
        """How the job is now."""
        with _explained(self.address):
            info = self._client.get_job_info(job)
        return JobState(str(info.status.value), info.driver_exit_code, str(info.message or ""))

    def log(self, job: str) -> str:
        """Everything that the job has printed so far."""
        with _explained(self.address):
            return str(self._client.get_job_logs(job))

    def stop(self, job: str) -> None:
        """Asks the job to end: SIGTERM to its processes, SIGKILL some seconds later."""
        with _explained(self.address):
            self._client.stop_job(job)


def keep_folder_from_workers() -> None:
    """Called in a job, before Ray starts there: its workers get no copy of the job's folder.

    They read everything from the run directory. With a copy, nodes that share a disk remove it under each other.
    """
    config = json.loads(os.environ.get(JOB_CONFIG, "{}"))
    if config.get("runtime_env", {}).pop("working_dir", None) is not None:
        os.environ[JOB_CONFIG] = json.dumps(config)


def require_token() -> None:
    """Switches Ray's token authentication on for this process, which Ray's client does not do by itself.

    Raises ConfigError where no token is at hand, or where its file can be read by others.
    """
    os.environ["RAY_AUTH_MODE"] = "token"
    if os.environ.get("RAY_AUTH_TOKEN"):
        return
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or TOKEN_PATH).expanduser()
    if not path.is_file():
        raise ConfigError(
            f"{path}: no Ray token there; copy the cluster's, chmod 600, and name it in RAY_AUTH_TOKEN_PATH"
        )
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise ConfigError(f"{path}: mode {mode:o} lets others read the token; chmod 600 {path}")
    if not path.read_text(encoding="utf-8").strip():
        raise ConfigError(f"{path}: the token's file is empty; copy the cluster's")


def _knock(address: str) -> None:
    """Whether anything listens at all: Ray's client would wait for minutes."""
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(
            f"--address {address}: give the cluster's Jobs API as a URL, such as {DEFAULT_ADDRESS}"
        )
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((parts.hostname, port), timeout=KNOCK).close()
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"--address {address}: no cluster there ({error}); start one (infra/ray/head.sh), or open a tunnel to "
            "its dashboard"
        ) from None


@contextmanager
def _explained(address: str) -> Iterator[None]:
    """Turns what Ray's client raises into one line; none of it holds the token."""
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError:
        raise ConfigError(
            f"--address {address}: the cluster refuses the token; RAY_AUTH_TOKEN_PATH must name the file that its "
            "head was started with"
        ) from None
    except (RuntimeError, OSError, ValueError) as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ConfigError(
            f"--address {address}: the cluster did not take the request: {reason[:300]}"
        ) from None
