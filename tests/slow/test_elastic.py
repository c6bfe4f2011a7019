"""A cluster that changes under a run: machines join and leave, and what can never be placed is refused."""

import json
import time
from pathlib import Path

import pytest
import yaml

from flows.cli import main
from pipeline import open_run
from tests.nodes import cluster
from tests.processes import wait_for
from tests.runs import content, score_files, toy_mapping

pytestmark = [pytest.mark.slow, pytest.mark.long]

if not Path("/proc/self/stat").exists():
    pytest.skip("finds processes in /proc", allow_module_level=True)

# Without Prefect, which starts slowly and plays no part here.
PLAIN = """
import sys
from pipeline import RunConfig, discover
from flows.progress import shown
with shown() as on_event:
    run = discover(RunConfig.load(sys.argv[1]), run_dir=sys.argv[2], on_event=on_event)
sys.exit(0 if run.status()["complete"] else 3)
"""


@pytest.fixture
def nodes(tmp_path):
    folder = tmp_path / "ray"
    folder.mkdir()
    with cluster(folder, nodes=1) as made:
        yield made


def config_for(address, tmp_path, **changes):
    mapping = toy_mapping(
        tmp_path / "results",
        tasks=[{"name": "induction", "count": 800}],
        methods=[
            {"name": "eap_ig", "steps": 60},
            {"name": "acdc", "threshold": 0.01, "scope": "shard", "as": "acdc"},
        ],
        shards={"prompts": 20},
        evaluate={"edge_fractions": [0.05]},
        cluster={"address": address, "workers": 2, **changes},
    )
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(mapping))
    return path


def test_a_run_takes_up_a_machine_that_joins_and_outlives_one_that_leaves(nodes, tmp_path, drive, gate):
    config, run = config_for(nodes.address, tmp_path), tmp_path / "run"
    gate.shut(run, 2)
    driver = drive(config, run, code=PLAIN, env=nodes.env, gate=gate)
    wait_for(lambda: len(score_files(run)) >= 2)
    assert len(nodes.workers()) == 1, "it has begun with the one worker that there is room for"
    (first,) = nodes.nodes
    nodes.add_node()
    wait_for(lambda: len(nodes.workers()) == 2)
    gate.shut(run, 15)
    wait_for(lambda: len(score_files(run)) >= 15)
    begun = time.monotonic()
    nodes.kill_node(first)
    landed = len(score_files(run))
    gate.open()
    wait_for(lambda: len(score_files(run)) > landed + 2)
    print(f"goes on {time.monotonic() - begun:.1f} s after the loss of a node")
    assert landed <= 16
    code, err = driver.finish()
    assert code == 0, err

    local = tmp_path / "undisturbed"
    assert main(["run", str(config), "--run-dir", str(local), "--local"]) == 0
    assert content(run / "aggregate") == content(local / "aggregate")
    footers = open_run(run).footers()
    assert len(footers) == footers.item.nunique() == 120
    died = [json.loads(path.read_text()) for path in run.glob("failures/**/*.json")]
    assert len(died) <= 1, "at most what the lost worker was at"
    assert all(record["failure"] == "died" and not record["final"] for record in died)


def test_what_a_cluster_can_never_place_is_one_line_and_starts_nothing(nodes, tmp_path, drive):
    config = config_for(nodes.address, tmp_path, gpus_per_worker=5)
    begun = time.monotonic()
    code, err = drive("run", config, "--run-dir", tmp_path / "run", env=nodes.env).finish()
    print(f"refused after {time.monotonic() - begun:.1f} s, Python and Prefect included")
    assert code == 2
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert f"no machine at {nodes.address} has 5 GPUs and 1 CPU for a worker" in line
    assert "Traceback" not in err
    assert not list(tmp_path.glob("run/scores/**/*.parquet"))
