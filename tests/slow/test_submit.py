"""Submissions to a Ray cluster of nodes that infra/ray's scripts have started: nothing lost, nobody let in."""

import json
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import yaml

from flows.cli import main
from pipeline import open_run
from tests.infra.doors import doors
from tests.infra.nodes import Nodes, listening
from tests.processes import GUARD_SECONDS, open_ports, wait_for
from tests.runs import PAIR, content, score_files, toy_mapping
from tests.unchanged import may_stay

pytestmark = pytest.mark.slow

if not Path("/proc/net/tcp").exists():
    pytest.skip("reads listeners in /proc", allow_module_level=True)


SCORES = "toy-*/scores/**/*.parquet"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A head without CPUs for workers, so that nodes can come and go, and one node with two."""
    nodes = Nodes(tmp_path_factory.mktemp("cluster"))
    try:
        nodes.start_head("--num-cpus=0")
        nodes.start_worker("--num-cpus=2")
        yield nodes
    finally:
        nodes.stop()


def submit(cluster, *argv):
    """`circuits submit ... --json` as a person on another machine types it: (exit code, data, stderr)."""
    words = [
        sys.executable,
        "-m",
        "flows.cli",
        "submit",
        *map(str, argv),
        "--json",
        "--address",
        cluster.address,
    ]
    done = subprocess.run(
        words, env=cluster.env, capture_output=True, text=True, timeout=GUARD_SECONDS, check=False
    )
    return done.returncode, json.loads(done.stdout or "null"), done.stderr


def written(folder, name="config.yaml", **changes):
    path = folder / name
    path.write_text(yaml.safe_dump(toy_mapping(folder / "results") | {"cluster": {"workers": 2}} | changes))
    return path


def test_two_configs_are_one_job_with_the_results_of_a_run_at_home(cluster, tmp_path):
    prompts = tmp_path / "pairs.jsonl"
    prompts.write_text((json.dumps(PAIR) + "\n") * 8)
    first = written(tmp_path)
    second = written(tmp_path, "second.yaml", tasks=[{"name": "file", "path": str(prompts)}])

    code, data, err = submit(cluster, first, second, "--wait")

    assert code == 0, err
    assert [run["complete"] for run in data["runs"]] == [True, True]
    assert cluster.token.read_text() not in json.dumps(data) + err
    prompts.unlink()
    for config, run in zip((first, second), data["runs"], strict=True):
        assert open_run(run["run"]).status()["complete"]
        assert main(["resume", run["run"], "--local"]) == 0, "prompts that came with the job are still there"
        alone = tmp_path / f"alone-{config.stem}"
        if config is first:
            assert main(["run", str(config), "--local", "--run-dir", str(alone)]) == 0
            assert content(Path(run["run"]) / "aggregate") == content(alone / "aggregate")


def test_what_cannot_run_there_is_told_in_one_line(cluster, tmp_path):
    nowhere = written(tmp_path, model={"name": str(tmp_path / "no-model")})
    code, data, err = submit(cluster, nowhere)
    assert code == 1, err
    assert "no-model" in data["runs"][0]["error"]

    unmounted = written(tmp_path, output=str(tmp_path / "unmounted" / "results"))
    code, data, err = submit(cluster, unmounted)
    assert code == 1, err
    assert "is not there on the cluster" in data["runs"][0]["error"]

    (tmp_path / "wrong").touch(0o600)
    (tmp_path / "wrong").write_text("0" * 64)
    words = [sys.executable, "-m", "flows.cli", "submit", str(nowhere), "--address", cluster.address]
    env = cluster.env | {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "wrong")}
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=GUARD_SECONDS, check=False)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "refuses the token" in line


def test_a_run_goes_on_when_one_node_is_lost_and_another_comes(cluster, tmp_path):
    config = written(
        tmp_path,
        tasks=[{"name": "induction", "count": 128}],
        methods=[{"name": "eap_ig"}, {"name": "edge_patching"}],
        shards={"prompts": 8},
        failures={"retries": 4},
    )
    cluster.gate.shut(tmp_path / "results", 3, SCORES)
    code, data, err = submit(cluster, config)
    assert code == 0, err
    (run,) = (Path(entry["run"]) for entry in data["runs"])
    wait_for(lambda: len(score_files(run)) >= 3)
    lost = cluster.processes[-1]
    cluster.lose(lost)
    assert len(score_files(run)) <= 4
    cluster.gate.open()
    cluster.start_worker("--num-cpus=2")
    may_stay(cluster.processes[-1].pid)

    wait_for((run / "_SUCCESS.json").exists)

    assert main(["run", str(config), "--local", "--run-dir", str(tmp_path / "alone")]) == 0
    assert content(run / "aggregate") == content(tmp_path / "alone" / "aggregate")


def test_a_submitted_run_that_is_cancelled_is_finished_by_another_process(cluster, tmp_path):
    from pipeline.cluster.submission import Cluster

    config = written(
        tmp_path,
        tasks=[{"name": "induction", "count": 64}],
        methods=[{"name": "edge_patching"}],
        shards={"prompts": 8},
    )
    cluster.gate.shut(tmp_path / "results", 2, SCORES)
    code, data, err = submit(cluster, config)
    assert code == 0, err
    (run,) = (Path(entry["run"]) for entry in data["runs"])
    wait_for(lambda: len(score_files(run)) >= 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_TOKEN_PATH", str(cluster.token))
        patch.setenv("RAY_AUTH_MODE", "token")
        client = Cluster(cluster.address)
        assert main(["cancel", str(run)]) == 0
        wait_for(lambda: client.state(data["job"]).is_over)
        assert client.state(data["job"]).exit_code == 130
        kept = cluster.token.read_text()
        assert kept not in client.log(data["job"]) + repr(client.state(data["job"]))
    before = {path: path.stat().st_mtime_ns for path in score_files(run)}
    assert 2 <= len(before) <= 3

    assert main(["resume", str(run), "--local"]) == 0

    assert open_run(run).status()["complete"]
    assert {path: path.stat().st_mtime_ns for path in before} == before


# --- doors -------------------------------------------------------------------------------------------------


def test_no_port_of_the_cluster_answers_who_has_no_token(cluster, capsys):
    ours = {port for one in cluster.processes if one.poll() is None for port in open_ports(one.pid)}
    assert {
        cluster.gcs,
        cluster.dashboard,
        *(first + offset for first in cluster.blocks[:1] for offset in range(6)),
    } <= ours

    table = doors(ours)
    with capsys.disabled():
        for row in table:
            print(*row)


def test_the_dashboard_listens_on_loopback_alone(cluster):
    assert listening()[cluster.dashboard] == {"0100007F"}
    with urllib.request.urlopen(cluster.address, timeout=GUARD_SECONDS) as page:
        assert len(page.read()) < 1000, "more than an empty page"
