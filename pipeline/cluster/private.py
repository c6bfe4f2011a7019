"""A Ray that this process starts for itself: nobody else on the machine or the network has any part in it.

Knows what Ray reads when it starts: where its token, its sockets and its logs lie, at which address it listens, and
what answers anyone. Does not know actors or jobs. By itself Ray puts its token into the home folder for everyone to
read, listens on every address, has metrics answer whoever asks, and lets anyone write to its folder.
"""

import os
import secrets
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from pipeline.cluster import no_pages

# What Ray does by itself where firewalls ask for every port: its own address is loopback's, for all that it starts.
CLUSTERS = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
CLOSED = {
    CLUSTERS: "0",
    "RAY_AUTH_MODE": "token",
    "RAY_enable_metrics_collection": "0",
    "RAY_prestart_worker_first_driver": "0",  # as many as there are cores, whoever may need them
    "DASHBOARD_METRIC_PORT": "-1",  # no server comes up at a port that does not exist
    "AUTOSCALER_METRIC_PORT": "-1",
}
TOKEN, TOKEN_PATH = "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"  # of a cluster, where a person has set them
# Of a socket's path, which the system limits to 103 or 107 bytes, Ray takes so many below its folder.
SOCKET = len("/ray/session_2026-01-31_23-59-59_123456_1234567/sockets/plasma_store")
LONGEST = 103


# What Ray starts on every head, each a Python of its own that its start waits for or shares the processor with: pages
# and usage statistics, machines that come and go, and the output of workers at the driver's terminal.
_LIBRARIES = "get_dashboard_dependency_error"  # of Ray's pages: imports them, and says what is missing
_START, _AGENT = "start_ray_process", "--dashboard_agent_command="
HELPERS = ("start_api_server", "start_monitor", "start_log_monitor")


@contextmanager
def private() -> Iterator[str]:
    """The folder for a Ray that starts within, which goes away at the end; the environment and Ray's view of it are
    such that whatever it starts is this user's alone."""
    with tempfile.TemporaryDirectory(prefix="circuits-", dir=_room(), ignore_cleanup_errors=True) as folder:
        token = Path(folder) / "token"  # in a folder that nobody else can enter
        with os.fdopen(os.open(token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
        before = {name: os.environ.get(name) for name in (*CLOSED, TOKEN, TOKEN_PATH)}
        try:
            _have_ray_read({**CLOSED, TOKEN: None, TOKEN_PATH: str(token)})
            yield str(Path(folder) / "ray")
        finally:
            _have_ray_read(before)


@contextmanager
def bare(variables: Mapping[str, str]) -> Iterator[None]:
    """A Ray that starts within has what runs actors, and none of its `HELPERS`: it has no pages, does not grow and
    says nothing; the libraries of its pages are not even looked for. Workers find the variables. One that does not
    start helpers by these names starts as ever."""
    from ray._private import services, utils
    from ray._private.node import Node

    def none(node: Any, **_: Any) -> None:
        node._webui_url = ""  # noqa: SLF001 - what `start_api_server` leaves behind

    with ExitStack() as stack:
        stack.enter_context(_environment(variables))
        if (asked := getattr(utils, _LIBRARIES, None)) is not None:
            stack.callback(setattr, utils, _LIBRARIES, asked)
            setattr(utils, _LIBRARIES, lambda: ImportError("no pages"))
        if (start := getattr(services, _START, None)) is not None:
            stack.callback(setattr, services, _START, start)
            setattr(services, _START, lambda words, *of, **how: start([*map(_alone, words)], *of, **how))
        for name in HELPERS:
            if hasattr(Node, name):
                stack.callback(setattr, Node, name, getattr(Node, name))
                setattr(Node, name, none)
        yield


def _alone(word: str) -> str:
    """A word of the command that starts Ray's server of a machine; its agent of pages is then one that has none."""
    if not word.startswith(_AGENT):
        return word
    asked = shlex.split(word.removeprefix(_AGENT))
    said = dict(one.split("=", 1) for one in asked if one.startswith("--") and "=" in one)
    if not {"--session-dir", "--node-id"} <= said.keys():
        return word
    words = [sys.executable, "-I", "-S", no_pages.__file__, said["--session-dir"], said["--node-id"]]
    return _AGENT + subprocess.list2cmdline(words)


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    try:
        _set(variables)
        yield
    finally:
        _set(before)


def _room() -> str:
    """Where Ray's folder lies: the first place whose path is short enough for a socket's."""
    places = [os.environ.get("RAY_TMPDIR"), tempfile.gettempdir(), "/tmp"]  # noqa: S108 - a folder of our own in it
    short = LONGEST - SOCKET - len("/circuits-12345678")
    return next((place for place in places if place and len(os.fsencode(place)) <= short), places[-1] or "")


def _have_ray_read(variables: Mapping[str, str | None]) -> None:
    """Sets the variables, or removes them, also for a Ray that has read some already."""
    _set(variables)
    tell_ray()


def _set(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def tell_ray() -> None:
    """Has Ray read again what it reads only once: a process that had a Ray of its own knows another token."""
    import ray._raylet as core
    from ray._private import ray_constants

    ray_constants.ENABLE_RAY_CLUSTER = ray_constants.env_bool(CLUSTERS, not ray_constants.IS_WINDOWS_OR_OSX)
    parts: Any = core
    parts.Config.initialize("")
    parts.AuthenticationTokenLoader.instance().reset_cache()
