"""Submissions whose runs lie in a store: its keys are in the environment of the nodes, and in nothing that travels."""

import json
import subprocess
import sys
import urllib.request

import pytest
import yaml

from flows.cli import main
from pipeline import open_run
from pipeline.store.place.where import place
from tests.infra.nodes import Nodes
from tests.object_store import KEYS, folder_in, serving
from tests.processes import GUARD_SECONDS, wait_for
from tests.runs import score_files, toy_mapping
from tests.slow.survival import assert_like_undisturbed, contents

pytestmark = [pytest.mark.slow, pytest.mark.long]

SECRETS = (KEYS["AWS_ACCESS_KEY_ID"], KEYS["AWS_SECRET_ACCESS_KEY"])


@pytest.fixture(scope="module")
def closed_store():
    with serving(closed=True) as bucket:
        yield bucket


def submitted(nodes, *argv):
    """`circuits submit ... --json` as somebody types it who has the keys: (exit code, data, stderr)."""
    words = [
        sys.executable,
        "-m",
        "flows.cli",
        "submit",
        *map(str, argv),
        "--json",
        "--address",
        nodes.address,
    ]
    env = nodes.env | KEYS
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=GUARD_SECONDS, check=False)
    return done.returncode, json.loads(done.stdout or "null"), done.stderr


def written(folder, output, **changes):
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(toy_mapping(output) | {"cluster": {"workers": 2}} | changes))
    return path


def what_the_cluster_knows(nodes, job):
    """A job's log and its entry, as the cluster gives it to whoever may submit."""
    token = nodes.token.read_text().strip()
    found = ""
    for path in (f"/api/jobs/{job}", f"/api/jobs/{job}/logs", "/api/jobs/"):
        request = urllib.request.Request(nodes.address + path, headers={"Authorization": f"Bearer {token}"})
        with urllib.request.urlopen(request, timeout=GUARD_SECONDS) as answer:
            found += answer.read().decode()
    return found


def test_a_run_in_a_store_is_submitted_cancelled_and_resumed_and_no_key_travels(closed_store, tmp_path):
    nodes = Nodes(tmp_path)
    changes = {
        "tasks": [{"name": "induction", "count": 64}],
        "methods": [{"name": "eap_ig"}, {"name": "edge_patching"}],
        "shards": {"prompts": 8},
    }
    output = folder_in(closed_store)
    config = written(tmp_path, output, **changes)
    nodes.gate.shut(output, 2, "toy-*/scores/**/*.parquet")
    try:
        nodes.start_head("--num-cpus=0")
        nodes.start_worker("--num-cpus=2")
        code, data, err = submitted(nodes, config)
        assert code == 0, err
        (address,) = (entry["run"] for entry in data["runs"])
        run = place(address)
        wait_for(lambda: len(score_files(run)) >= 2)
        assert main(["status", address]) == 3
        assert open_run(address).status()["running"]
        assert main(["cancel", address]) == 0
        before = {path: path.stat().st_mtime_ns for path in score_files(run)}
        assert 2 <= len(before) <= 3
        known = what_the_cluster_knows(nodes, data["job"]) + json.dumps(data) + err
    finally:
        nodes.stop()
    assert main(["resume", address, "--local"]) == 0
    assert open_run(address).status()["complete"]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert_like_undisturbed(config, run, tmp_path / "alone", "aggregate")

    assert address in known
    logs = [path for path in tmp_path.rglob("*.log") if path.is_file()]
    everything = [known.encode(), *contents(run).values(), *(path.read_bytes() for path in logs)]
    assert not [part[:200] for part in everything for secret in SECRETS if secret.encode() in part]


def test_nodes_without_keys_are_told_of_in_one_line(closed_store, tmp_path, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    nodes = Nodes(tmp_path)
    config = written(tmp_path, folder_in(closed_store))
    try:
        nodes.start_head("--num-cpus=2")
        code, data, err = submitted(nodes, config)
    finally:
        nodes.stop()
    assert code == 1, err
    error = data["runs"][0]["error"]
    assert "\n" not in error
    assert "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY on" in error
    assert "every node" in error
    assert not any(secret in error + err for secret in SECRETS)
