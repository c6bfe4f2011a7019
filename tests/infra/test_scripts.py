"""The start scripts refuse to open a cluster to anyone; the token's file is its owner's alone."""

import os
import stat
import subprocess

import pytest

from tests.infra.nodes import ROOT, SCRIPTS, bin_on_path
from tests.processes import GUARD_SECONDS


def refused(script, token, **env):
    done = subprocess.run(
        [SCRIPTS / script, "127.0.0.1:1"],
        env=bin_on_path() | {"RAY_AUTH_TOKEN_PATH": str(token)} | env,
        capture_output=True,
        text=True,
        timeout=GUARD_SECONDS,
        check=False,
    )
    assert done.returncode == 2, done
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    return line


@pytest.fixture
def token(tmp_path):
    subprocess.run([ROOT / "infra" / "token.sh", tmp_path / "token"], check=True, capture_output=True)
    return tmp_path / "token"


def test_a_token_is_made_for_its_owner_alone_and_never_replaced(token):
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    made = token.read_text()
    assert len(made) == 64

    again = subprocess.run([ROOT / "infra" / "token.sh", token], capture_output=True, check=False)

    assert again.returncode == 2
    line = again.stderr.decode().strip()
    assert line == f"error: {token} is there already and may be in use: copy that one, or name another file"
    assert token.read_text() == made


@pytest.mark.parametrize("script", ["head.sh", "worker.sh"])
def test_a_node_does_not_start_without_a_token_that_is_its_owners_alone(script, token, tmp_path):
    assert "no token there" in refused(script, tmp_path / "none")
    token.chmod(0o644)
    assert "chmod 600" in refused(script, token)
    token.chmod(0o600)
    os.truncate(token, 0)
    assert "empty" in refused(script, token)
    assert "RAY_AUTH_TOKEN" in refused(script, token, RAY_AUTH_TOKEN="a secret")


@pytest.mark.parametrize("script", ["server.sh", "worker.sh"])
def test_prefect_does_not_start_without_a_password_that_is_its_owners_alone(script, token, tmp_path):
    def refusal(password):
        done = subprocess.run(
            [ROOT / "infra" / "prefect" / script],
            env=bin_on_path() | {"CIRCUITS_PREFECT_PASSWORD": str(password)},
            capture_output=True,
            text=True,
            timeout=GUARD_SECONDS,
            check=False,
        )
        assert done.returncode == 2, done
        return done.stderr

    assert "no password there" in refusal(tmp_path / "none")
    token.chmod(0o640)
    assert "chmod 600" in refusal(token)


def test_an_option_on_the_command_line_takes_the_place_of_the_scripts_own(token, tmp_path):
    """Prefect refuses an option that comes twice."""
    stub = tmp_path / "bin" / "prefect"
    stub.parent.mkdir()
    stub.write_text('#!/bin/sh\necho "$@"\n')
    stub.chmod(0o755)

    def started(script, *argv):
        done = subprocess.run(
            [ROOT / "infra" / "prefect" / script, *argv],
            env=os.environ
            | {"PATH": f"{stub.parent}:{os.environ['PATH']}", "CIRCUITS_PREFECT_PASSWORD": str(token)},
            capture_output=True,
            text=True,
            timeout=GUARD_SECONDS,
            check=True,
        )
        return done.stdout.splitlines()[-1]

    assert started("server.sh", "--port", "1") == "server start --host 127.0.0.1 --port 1"
    assert started("server.sh", "--host", "0.0.0.0") == "server start --host 0.0.0.0"
    worker = "worker start --pool circuits --type process"
    assert started("worker.sh") == f"{worker} --limit 1"
    assert started("worker.sh", "--limit=2") == f"{worker} --limit=2"


def test_every_script_is_good_shell():
    scripts = [path for path in (ROOT / "infra").rglob("*") if path.suffix == ".sh"]
    assert {"head.sh", "worker.sh", "server.sh", "token.sh", "secret.sh"} <= {path.name for path in scripts}
    for script in scripts:
        done = subprocess.run(["bash", "-n", script], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
