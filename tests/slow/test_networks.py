"""Two nodes that share no address: each in a network namespace of its own, joined by a cable, as two machines are."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipeline import open_run
from tests.infra.machines import two_networks
from tests.infra.nodes import Nodes
from tests.processes import GUARD_SECONDS
from tests.runs import toy_mapping

pytestmark = [pytest.mark.slow, pytest.mark.long]

HEAD, WORKER = "10.77.0.1", "10.77.0.2"


@pytest.fixture(scope="module")
def machines():
    """Names of two namespaces, with the addresses of HEAD and WORKER."""
    with two_networks((HEAD, WORKER)) as names:
        yield names


@pytest.fixture(scope="module")
def cluster(machines, tmp_path_factory):
    nodes = Nodes(tmp_path_factory.mktemp("cluster"))
    try:
        nodes.start_head("--num-cpus=0", within=machines[0], address=HEAD)
        nodes.start_worker("--num-cpus=2", within=machines[1], address=WORKER, head=HEAD)
        yield nodes
    finally:
        nodes.stop()


def inside(machine, cluster, *words):
    command = ["ip", "netns", "exec", machine, sys.executable, *map(str, words)]
    return subprocess.run(
        command, env=cluster.env, capture_output=True, text=True, timeout=GUARD_SECONDS, check=False
    )


KNOCK = "import socket, sys; sys.exit(socket.socket().connect_ex((sys.argv[1], int(sys.argv[2]))))"


def test_a_run_is_computed_across_two_networks(cluster, machines, tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(toy_mapping(tmp_path / "results") | {"cluster": {"workers": 2}}))
    words = ["-m", "flows.cli", "submit", config, "--wait", "--address", cluster.address]

    done = inside(machines[0], cluster, *words)

    assert done.returncode == 0, done.stderr
    (run,) = (
        Path(line.removeprefix("run: ")) for line in done.stdout.splitlines() if line.startswith("run: ")
    )
    assert open_run(run).status()["complete"]


def test_another_machine_reaches_the_control_store_and_not_the_dashboard(cluster, machines):
    assert inside(machines[1], cluster, "-c", KNOCK, HEAD, cluster.gcs).returncode == 0
    assert inside(machines[1], cluster, "-c", KNOCK, HEAD, cluster.dashboard).returncode != 0
    assert inside(machines[0], cluster, "-c", KNOCK, "127.0.0.1", cluster.dashboard).returncode == 0
