"""A Prefect server with a password, a worker of a process pool, and the deployments of infra/prefect.yaml."""

import json
import socket
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import yaml

from flows.cli import main
from pipeline import open_run
from tests.infra.nodes import answers, listening
from tests.infra.service import Service, submit
from tests.processes import GUARD_SECONDS, open_ports
from tests.runs import content, toy_mapping

pytestmark = pytest.mark.slow


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
    ours = {port for process in service.processes for port in open_ports(process.pid)}
    assert service.port in ours
    known = listening()
    assert {port: known[port] for port in ours} == {port: {"0100007F"} for port in ours}
    for port in ours - {
        service.port
    }:  # where a worker tells its flow runs to end, to each by a token of its own
        with socket.create_connection(("127.0.0.1", port), timeout=GUARD_SECONDS) as knock:
            knock.sendall(b"0" * 32 + b"\n")
            assert knock.recv(100) == b""

    def status(path, body=None):
        request = urllib.request.Request(
            f"{service.url}{path}", data=body, headers={"content-type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=GUARD_SECONDS) as answer:
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
            stream.recv(timeout=GUARD_SECONDS)
