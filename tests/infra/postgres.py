"""A PostgreSQL of this machine's own package, with a password, on loopback.

Knows where Debian puts the programs and that they refuse root. Does not know who uses it.
"""

import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.infra.nodes import answers, free_block
from tests.processes import GUARD_SECONDS


class Postgres:
    """A server with one database and one user, both named `prefect`."""

    def __init__(self, folder: Path, programs: Path, user: str | None) -> None:
        self.folder, self.programs, self.user = folder, programs, user
        self.port = free_block()
        self.password = secrets.token_hex(16)

    def run(self, program: str, *words: object) -> str:
        done = subprocess.run(
            [self.programs / program, *map(str, words)],
            user=self.user,
            cwd=self.folder,
            env={**os.environ, "PGPASSWORD": self.password, "HOME": str(self.folder)},
            capture_output=True,
            text=True,
            timeout=GUARD_SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def ask(self, query: str) -> str:
        """The rows of a query, unadorned, as the user of the database sees them."""
        where = ("-h", "127.0.0.1", "-p", self.port, "-U", "prefect", "-d", "prefect")
        return self.run("psql", *where, "-A", "-t", "-c", query)


@contextmanager
def postgres() -> Iterator[Postgres]:
    """A running server; skips the test where PostgreSQL is not installed."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    found = debian[-1] if debian else shutil.which("initdb")
    if not found:
        pytest.skip("not installed: initdb (Debian: postgresql)")
    user = next((name for name in ("postgres", "nobody") if _exists(name)), None)
    if os.geteuid() != 0:
        user = None
    elif user is None:
        pytest.skip("PostgreSQL does not run as root, and there is no other user")
    with tempfile.TemporaryDirectory(prefix="circuits-postgres-") as name:  # where that user may look
        folder = Path(name)
        server = Postgres(folder, Path(found).parent, user)
        secret = folder / "password"
        secret.write_text(server.password)
        if user:
            for path in (folder, secret):
                shutil.chown(path, user)
        server.run("initdb", "-D", "data", "-U", "prefect", "--auth=scram-sha-256", "--pwfile", secret)
        options = ("-h", "127.0.0.1", "-p", str(server.port), "-k", str(folder), "-c", "fsync=off")
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(
                [server.programs / "postgres", "-D", folder / "data", *options],
                user=user,
                stdout=log,
                stderr=log,
                cwd=folder,
                start_new_session=True,
            )
        try:
            end = time.monotonic() + GUARD_SECONDS
            while not answers(server.port):
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < end
                time.sleep(0.1)
            where = ("-h", "127.0.0.1", "-p", server.port, "-U", "prefect")
            server.run("createdb", *where, "prefect")
            yield server
        finally:
            process.terminate()  # it waits for who is connected
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                process.send_signal(3)  # SIGQUIT: at once
                process.wait(GUARD_SECONDS)


def _exists(user: str) -> bool:
    with suppress(KeyError):
        return bool(pwd.getpwnam(user))
    return False
