"""What a run of one machine opens, while it is under way: nothing beyond loopback, nothing to who has no secret."""

import base64
import json
import os
import stat
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest
import yaml

from tests.infra.doors import doors
from tests.infra.nodes import listening
from tests.processes import GUARD_SECONDS, busy_workers, descendants, open_ports, title, wait_for
from tests.runs import toy_mapping

pytestmark = pytest.mark.slow

if not Path("/proc/self/stat").exists():
    pytest.skip("finds processes in /proc", allow_module_level=True)

LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F"}  # 127.0.0.1, and the same as IPv6 writes it


@pytest.fixture
def under_way(tmp_path, drive, gate):
    """A driver in the middle of a run, and the home folder that it has."""
    mapping = toy_mapping(tmp_path / "results", cluster={"workers": 2}, shards={"prompts": 4})
    mapping |= {"tasks": [{"name": "induction", "count": 32}]}
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(mapping))
    home = tmp_path / "home"
    home.mkdir(mode=0o755)
    env = {**os.environ, "HOME": str(home), "PREFECT_HOME": str(home / ".prefect")}
    gate.shut(tmp_path / "run", 2)
    before = os.umask(0o000)  # as open as it can be
    try:
        driver = drive("run", config, "--run-dir", tmp_path / "run", env=env, gate=gate)
    finally:
        os.umask(before)
    wait_for(lambda: open_ports(driver.pid, "prefect.server"))  # it comes after the first items
    wait_for(lambda: busy_workers(driver.pid))
    return driver, home


def asked(url, body=None, **headers):
    request = urllib.request.Request(url, data=body, headers={"content-type": "application/json", **headers})
    try:
        with urllib.request.urlopen(request, timeout=GUARD_SECONDS) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def test_a_local_run_listens_on_loopback_alone_and_answers_nobody_without_a_secret(under_way, capsys):
    driver, home = under_way
    (prefect,) = open_ports(driver.pid, "prefect.server")
    ours = open_ports(driver.pid)
    known = listening()
    assert len(ours) >= 8, "Ray's parts, two workers, the driver, Prefect"
    assert {port: known[port] - LOOPBACK for port in ours & known.keys()} == {
        port: set() for port in ours & known.keys()
    }
    table = doors(ours - {prefect})
    with capsys.disabled():
        for row in table:
            print(*row)

    url = f"http://127.0.0.1:{prefect}/api"
    wrong = "Basic " + base64.b64encode(b"circuits:wrong").decode()
    for path, body in [
        ("/flow_runs/filter", b"{}"),
        ("/artifacts/filter", b"{}"),
        ("/admin/settings", None),
        ("/flows/", json.dumps({"name": "mine"}).encode()),
    ]:
        assert asked(url + path, body) == 401, path
        assert asked(url + path, body, authorization=wrong) == 401, path
    assert asked(url + "/health") == 200

    # files: what a run keeps secret or writes for itself is for its owner alone
    assert not (home / ".ray").exists()
    readable = [p for p in (home / ".prefect").glob("prefect.db*") if stat.S_IMODE(p.stat().st_mode) & 0o077]
    assert readable == []
    family = descendants(driver.pid)
    (raylet,) = [each for each in family if "raylet/raylet" in title(each)]
    token = Path(psutil.Process(raylet).environ()["RAY_AUTH_TOKEN_PATH"])
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert stat.S_IMODE(token.parent.stat().st_mode) == 0o700

    # command lines: any account can read them
    secret = token.read_text()
    lines = [title(each) for each in family]
    servers = [psutil.Process(each) for each in family if "prefect.server" in title(each)]
    (password,) = {each.environ().get("PREFECT_SERVER_API_AUTH_STRING") for each in servers} - {None}
    assert not [line for line in lines if secret in line or password in line]
