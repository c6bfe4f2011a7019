"""A Prefect server with a password, a worker of a process pool, and the deployments of infra/prefect.yaml."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from flows.cli import main
from pipeline import open_run
from tests.infra.nodes import ROOT, answers, bin_on_path, free_block, listening
from tests.runs import content, toy_mapping

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.xdist_group("slow")]


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
        with (self.folder / f"{script}.log").open("w") as log:
            command = [ROOT / "infra" / "prefect" / script, *argv]
            self.processes.append(
                subprocess.Popen(command, env=self.env, stdout=log, stderr=log, start_new_session=True)
            )

    def wait_for(self, condition) -> None:
        end = time.monotonic() + 240
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
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    service = Service(tmp_path_factory.mktemp("prefect"))
    try:
        service.start("server.sh", "--port", str(service.port))
        service.wait_for(lambda: answers(service.port))
        service.start("worker.sh")
        service.wait_for(lambda: "started!" in (service.folder / "worker.sh.log").read_text())
        yield service
    finally:
        service.stop()


def submit(service, *argv, **env):
    words = [sys.executable, "-m", "flows.cli", "submit", *map(str, argv), "--to", "prefect", "--json"]
    done = subprocess.run(
        [*words, "--address", service.url],
        env=service.bare | {"PREFECT_HOME": str(service.folder / "client")} | env,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    return done.returncode, json.loads(done.stdout or "null"), done.stderr


def test_a_deployment_runs_what_is_submitted_and_the_password_is_written_nowhere(service, tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(toy_mapping(tmp_path / "results", cluster={"workers": 2})))
    broken = tmp_path / "broken.yaml"
    broken.write_text(
        yaml.safe_dump(toy_mapping(tmp_path / "results", model={"name": str(tmp_path / "no-model")}))
    )
    password = service.password.read_text()

    code, data, err = submit(
        service, config, broken, "--wait", PREFECT_API_AUTH_STRING=f"circuits:{password}"
    )

    assert code == 1, err
    good, bad = data["runs"]
    assert "no-model" in bad["error"]
    assert open_run(good["run"]).status()["complete"]
    alone = tmp_path / "alone"
    assert main(["run", str(config), "--local", "--run-dir", str(alone)]) == 0
    assert content(Path(good["run"]) / "aggregate") == content(alone / "aggregate")
    written = [*service.folder.rglob("*"), *tmp_path.rglob("*")]
    holders = [p for p in written if p.is_file() and password.encode() in p.read_bytes()]
    assert holders == [service.password]


def test_who_has_no_password_is_told_so_in_one_line(service, tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(toy_mapping(tmp_path / "results")))
    for given in ({}, {"PREFECT_API_AUTH_STRING": "circuits:wrong"}):
        code, _, err = submit(service, config, **given)
        assert code == 2
        (line,) = err.splitlines()
        assert "PREFECT_API_AUTH_STRING" in line


def test_the_server_listens_on_loopback_and_refuses_who_has_no_password(service):
    import psutil

    ours = set()
    for process in service.processes:
        node = psutil.Process(process.pid)
        for each in (node, *node.children(recursive=True)):
            ours |= {c.laddr.port for c in each.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
    assert service.port in ours
    known = listening()
    assert {port: known[port] for port in ours} == {port: {"0100007F"} for port in ours}
    for port in ours - {
        service.port
    }:  # where a worker tells its flow runs to end, to each by a token of its own
        with socket.create_connection(("127.0.0.1", port), timeout=20) as knock:
            knock.sendall(b"0" * 32 + b"\n")
            assert knock.recv(100) == b""

    def status(path, body=None):
        request = urllib.request.Request(
            f"{service.url}{path}", data=body, headers={"content-type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code

    assert {status(path) for path in ("/admin/settings", "/admin/version", "/csrf-token")} == {401}
    for what in (
        "flow_runs",
        "deployments",
        "artifacts",
        "work_pools",
        "logs",
        "block_documents",
        "variables",
    ):
        assert status(f"/{what}/filter", b"{}") == 401, what
    assert status("/flows/", b'{"name": "mine"}') == 401


@pytest.mark.parametrize("path", ["/events/in", "/events/out", "/logs/out"])
def test_the_servers_streams_close_at_who_has_no_password(service, path):
    import websockets
    from websockets.sync.client import connect

    url = service.url.replace("http", "ws", 1) + path
    with connect(url, subprotocols=["prefect"]) as stream:
        stream.send(json.dumps({"type": "auth", "token": None}))
        with pytest.raises(websockets.ConnectionClosed, match="Auth required"):
            stream.recv(timeout=20)
