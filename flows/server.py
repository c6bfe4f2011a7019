"""The Prefect server that is asked: the one that a person has named, or a small one of this process's own.

Knows Prefect's settings and how its server is started: on loopback, behind a password, for this user alone, and for as
long as this process is there. Does not know flows.
"""

import atexit
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty
from typing import Any
from urllib.parse import urlsplit

from flows.guard import guarded, release
from pipeline.core.errors import ConfigError

USER = "circuits"
KNOCK = 10.0  # seconds in which a server that was named must take a connection
PAUSE = 0.1  # seconds between two looks at whether it is up


@dataclass(frozen=True)
class Server:
    """Where it listens, and what it asks for. It may still be starting."""

    url: str
    auth: str
    guard: "subprocess.Popen[bytes]"

    def wait(self, seconds: float, is_over: Callable[[], bool]) -> None:
        """Returns once it answers. OSError where it has ended, says nothing for so long, or `is_over`."""
        import httpx

        end = time.monotonic() + seconds
        while time.monotonic() < end and not is_over():
            if self.guard.poll() is not None:
                raise OSError("Prefect's own server has ended while it started")
            try:
                if httpx.get(f"{self.url}/health", timeout=10, trust_env=False).status_code == httpx.codes.OK:
                    return
            except httpx.TransportError:
                pass
            time.sleep(PAUSE)
        raise OSError(f"Prefect's own server has not started within {seconds:.0f} s")

    def close(self) -> None:
        """Ends it; returns when it is gone."""
        release(self.guard)


_servers: list[Server] = []  # the one of this process, once it is asked for


def ready() -> None:
    """Has a server of our own begin to start, where no other is named; ConfigError where that one does not answer."""
    from prefect.settings import PREFECT_API_URL

    url = PREFECT_API_URL.value()
    if url:
        _check(url)
    elif not _servers or _servers[0].guard.poll() is not None:
        _end()
        _servers.append(_start())


def may_be_named() -> bool:
    """Whether a Prefect server may be named anywhere that Prefect looks for its settings. Does not import Prefect."""
    home = Path(os.environ.get("PREFECT_HOME") or "~/.prefect").expanduser()
    profiles = Path(os.environ.get("PREFECT_PROFILES_PATH") or home / "profiles.toml")
    return (
        any(os.environ.get(name) for name in ("PREFECT_API_URL", "PREFECT_PROFILE"))
        or Path("prefect.toml").exists()
        or "PREFECT_API_URL" in _text(profiles)
        or "PREFECT_" in _text(Path(".env"))
        or "[tool.prefect" in _text(Path("pyproject.toml"))
        or "prefect" in sys.modules  # whose settings may have been set in this process
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


@contextmanager
def asked(is_over: Callable[[], bool]) -> Iterator[Callable[[], None]]:
    """Within it Prefect's client asks the server that is `ready`. It gives a way to hang up: whatever is asked after
    that fails at once. OSError where our own server has not come up, or `is_over` says that it need not."""
    from prefect.context import SyncClientContext
    from prefect.settings import (
        PREFECT_API_AUTH_STRING,
        PREFECT_API_URL,
        PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS,
        temporary_settings,
    )

    updates = {}
    if not PREFECT_API_URL.value():
        own = _servers[0]
        own.wait(PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS.value(), is_over)
        updates = {PREFECT_API_URL: own.url, PREFECT_API_AUTH_STRING: own.auth}
    with temporary_settings(updates), SyncClientContext() as context:

        def hang_up() -> None:
            context.client._client.close()  # noqa: SLF001 - there is no other way to have it fail
            _forget_events()

        yield hang_up


def _forget_events() -> None:
    """What Prefect would try to send for minutes, at the end of the process, is not sent."""
    from prefect.events.clients import NullEventsClient
    from prefect.events.worker import EventsWorker

    EventsWorker.set_client_override(NullEventsClient)
    workers: Any = getattr(EventsWorker, "_instances", {})
    for worker in list(workers.values()):
        with suppress(Empty, AttributeError):
            while True:
                worker._queue.get_nowait()  # noqa: SLF001 - it can be drained or waited for, but not given up


def _check(url: str) -> None:
    """ConfigError where no Prefect server answers at the URL, or none that takes this client."""
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectHTTPStatusError

    mend = "start it, name another, or unset it (prefect config unset PREFECT_API_URL) for a server of the run's own"
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        if not any(name.lower().endswith("_proxy") for name in os.environ):
            socket.create_connection((parts.hostname or "no-host.invalid", port), timeout=KNOCK).close()
        with get_client(sync_client=True) as client:
            client.api_version()
    except PrefectHTTPStatusError as error:
        code = error.response.status_code
        if code in (401, 403):
            raise ConfigError(
                f"PREFECT_API_URL={url}: the server refuses this client; set PREFECT_API_AUTH_STRING"
            ) from None
        raise ConfigError(
            f"PREFECT_API_URL={url}: no Prefect server answers there ({code}); {mend}"
        ) from None
    except (httpx.HTTPError, httpx.InvalidURL, RuntimeError, OSError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(
            f"PREFECT_API_URL={url}: no Prefect server answers there ({reason}); {mend}"
        ) from None


def _start() -> Server:
    import prefect
    from prefect.settings import get_current_settings

    _keep_to_me(Path(prefect.settings.PREFECT_HOME.value()))
    auth = f"{USER}:{secrets.token_urlsafe(24)}"
    settings = get_current_settings().to_environment_variables(exclude_unset=True)
    environment = {
        **os.environ,
        **settings,
        "PREFECT_SERVER_API_AUTH_STRING": auth,  # in the environment, which only this user can read
        "PREFECT_UI_ENABLED": "0",
        "PREFECT__SERVER_EPHEMERAL": "1",  # no services that only a server for many needs
        "PREFECT__SERVER_FINAL": "1",
    }
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        words = [sys.executable, "-P", "-m", "uvicorn", "--factory", "prefect.server.api.server:create_app"]
        words += ["--app-dir", str(Path(prefect.__file__).parent.parent), "--fd", str(listener.fileno())]
        words += ["--log-level", "critical", "--lifespan", "on"]
        guard = guarded(words, environment, [listener.fileno()])
        return Server(f"http://127.0.0.1:{listener.getsockname()[1]}/api", auth, guard)


def _keep_to_me(home: Path) -> None:
    """Prefect's folder and what an earlier server has left in it are for their owner alone."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in (home, *home.glob("prefect.db*")):
        if path.stat().st_uid == os.getuid():
            path.chmod(path.stat().st_mode & 0o700)


@atexit.register
def _end() -> None:
    while _servers:
        _servers.pop().close()
