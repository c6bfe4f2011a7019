"""A Ray of one's own finds its token where nobody else can read it, and the environment is as it was afterwards."""

import os
import shlex
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from ray._private import utils

from pipeline.cluster import private as module
from pipeline.cluster.no_pages import PORTS
from pipeline.cluster.private import CLOSED, HELPERS, TOKEN, TOKEN_PATH, bare, private
from tests.processes import wait_for


@pytest.fixture(autouse=True)
def unread(monkeypatch):
    """Ray itself is not told: other tests of this process have one that runs."""
    monkeypatch.setattr(module, "tell_ray", lambda: None)


def test_the_token_is_new_each_time_and_its_owners_alone_from_the_first_moment(monkeypatch):
    modes, tokens = [], []
    opened = os.open

    def watched(path, flags, mode=0o777, **options):
        if str(path).endswith("token"):
            modes.append((flags & os.O_EXCL, mode, stat.S_IMODE(Path(path).parent.stat().st_mode)))
        return opened(path, flags, mode, **options)

    monkeypatch.setattr(os, "open", watched)
    before = os.umask(0)
    try:
        for _ in range(2):
            with private() as folder:
                token = Path(os.environ[TOKEN_PATH])
                tokens.append(token.read_text())
                assert stat.S_IMODE(token.stat().st_mode) == 0o600
                assert Path(folder).parent == token.parent
            assert not token.parent.exists()
    finally:
        os.umask(before)
    assert modes == [(os.O_EXCL, 0o600, 0o700)] * 2
    assert len(set(tokens)) == 2
    assert all(len(token) == 64 for token in tokens)


def test_a_persons_own_token_is_neither_used_nor_touched(monkeypatch, tmp_path):
    (tmp_path / "mine").write_text("a cluster's")
    monkeypatch.setenv(TOKEN_PATH, str(tmp_path / "mine"))
    monkeypatch.setenv(TOKEN, "another's")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.delenv("RAY_enable_metrics_collection", raising=False)
    before = dict(os.environ)
    with private():
        assert TOKEN not in os.environ
        assert os.environ[TOKEN_PATH] != str(tmp_path / "mine")
        assert {name: os.environ[name] for name in CLOSED} == CLOSED
    assert dict(os.environ) == before
    assert (tmp_path / "mine").read_text() == "a cluster's"


def test_rays_sockets_lie_where_a_path_is_short_enough(monkeypatch, tmp_path):
    deep = tmp_path / ("x" * 80)
    deep.mkdir()
    monkeypatch.setattr(module.tempfile, "gettempdir", lambda: str(deep))
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    with private() as folder:
        socket = f"{folder}/session_2026-01-31_23-59-59_123456_1234567/sockets/plasma_store"
        assert len(socket) <= 103


def started(word):
    """The command that a private Ray gives, in which Ray itself gives the word."""
    from ray._private import services

    given = []
    before = services.start_ray_process, utils.get_dashboard_dependency_error
    services.start_ray_process = lambda words, kind, **how: given.append((words, kind, how))
    try:
        with bare({}):
            assert isinstance(utils.get_dashboard_dependency_error(), ImportError)
            services.start_ray_process(["raylet", "--head", word], "raylet", env_updates=None)
    finally:
        services.start_ray_process = before[0]
    assert utils.get_dashboard_dependency_error is before[1]
    ((words, kind, how),) = given
    assert words[:2] == ["raylet", "--head"]
    assert (kind, how) == ("raylet", {"env_updates": None})
    return words[2]


def test_the_agent_of_rays_pages_is_one_that_imports_nothing_says_its_ports_and_goes_with_its_server(
    tmp_path,
):
    folder = tmp_path / "a session"
    folder.mkdir()
    agent = subprocess.list2cmdline(
        ["python", "agent.py", f"--session-dir={folder}", "--node-id=7", "--head"]
    )
    words = shlex.split(
        started(f"--dashboard_agent_command={agent}").removeprefix("--dashboard_agent_command=")
    )
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as server:
        variables = {"RAY_RAYLET_PID": str(server.pid)}
        words.append("--disable-metrics-collection")
        with subprocess.Popen(words, env=variables, stderr=subprocess.PIPE) as child:
            wait_for(lambda: {path.name for path in folder.iterdir()} == {f"{name}_7" for name in PORTS})
            assert child.poll() is None
            assert {path.read_text() for path in folder.iterdir()} == {"-1"}
            server.kill()
            server.wait()
            assert child.communicate()[1] == b""


def test_an_agent_whose_words_are_not_known_starts_as_ray_says():
    for word in (
        "--dashboard_agent_command=agent --node-id=7",
        "--node-id=7",
        "--runtime_env_agent_command=x",
    ):
        assert started(word) == word


def test_ray_still_starts_its_helpers_by_the_names_that_are_left_out():
    from ray._private.node import Node

    before = {name: getattr(Node, name) for name in HELPERS}
    variables = dict(os.environ)
    with bare({"OMP_NUM_THREADS": "7"}):
        assert all(getattr(Node, name) is not function for name, function in before.items())
        assert os.environ["OMP_NUM_THREADS"] == "7"
    assert {name: getattr(Node, name) for name in HELPERS} == before
    assert dict(os.environ) == variables
