"""What a package adds, installed in an environment of its own: planned, run on Ray, killed, resumed, verified, read.

The pipeline itself is not installed there; the environment sees the one that runs these tests.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import numpy as np
import pytest
import yaml

from flows.cli import main
from pipeline import load_scores, open_run
from pipeline.verify import verify
from tests.processes import wait_for
from tests.runs import content, toy_mapping

pytestmark = pytest.mark.slow

TRIAL = Path(__file__).parents[1] / "fixtures" / "plugin"
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """The interpreter of an environment in which the package is installed."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    source = shutil.copytree(TRIAL, folder / "source")
    site = next(folder.glob("lib/python*/site-packages"))
    ours = Path(sysconfig.get_path("purelib"))
    (site / "ours.pth").write_text(f"{ours}\nimport site; site.addsitedir({str(ours)!r})\n")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run(
        [*command, "--no-index", "--target", str(site), str(source)], check=True, capture_output=True
    )
    return folder / "bin" / "python"


@pytest.fixture
def config(tmp_path):
    mapping = toy_mapping(
        tmp_path / "results",
        tasks=[{"name": "induction", "count": 96}],
        methods=[
            {"name": "random_edges"},
            {"name": "gradient_mask", "steps": 20},
            {"name": "eap", "metric": "margin"},
        ],
        shards={"prompts": 24},
        cluster={"workers": 2, "batch_size": 8},
        evaluate={"edge_fractions": [0.05, 1.0], "also": ["auroc"]},
    )
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(mapping))
    return path


def says(python, *argv):
    """What the command prints to stdout, as JSON."""
    code = "import sys; from flows.cli import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [python, "-c", code, *map(str, argv)],
        check=True,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ,
    )
    return json.loads(done.stdout)


def test_a_mask_that_is_learned_by_two_workers_is_killed_and_goes_on_to_the_same_mask(
    python, config, tmp_path, drive, gate
):
    run = tmp_path / "disturbed"
    plan = says(python, "plan", config, "--json")

    steps = "decisions/**/step-*.json"

    def taken() -> list[Path]:
        return sorted(run.glob(steps))

    gate.shut(run, 5, steps)
    driver = drive("run", config, "--run-dir", run, python=python, gate=gate)
    wait_for(lambda: len(taken()) >= 5)
    driver.kill()
    before = {path: path.read_bytes() for path in taken()}
    assert len(before) == 5, "of 20"
    code, err = drive("run", config, "--run-dir", run, python=python).finish()
    assert code == 0, err
    assert {path: path.read_bytes() for path in before} == before
    code, err = drive("run", config, "--run-dir", tmp_path / "whole", "--local", python=python).finish()
    assert code == 0, err
    assert content(run / "aggregate") == content(tmp_path / "whole" / "aggregate")

    # here the package is not installed
    assert verify(run).damaged == ()
    there = open_run(run)
    assert there.is_complete
    assert set(there.manifest["plugins"]) == {"methods", "metrics"}
    mask = load_scores(run, method="gradient_mask")
    kept = set(mask[mask["kept"].astype(bool)].edge_id)
    truth = set(np.flatnonzero(there.truth("induction")))
    assert kept == truth, "the planted circuit"
    found = there.evaluations().set_index(["method", "quantity"])["value"]
    assert found["gradient_mask", "auroc"] == 1.0
    assert abs(found["random_edges", "auroc"] - 0.5) < 0.3
    assert main(["show", str(run)]) == 0
    assert "gradient_mask" in (run / "report.html").read_text()

    planned = {row["method"]: row for row in plan["rows"]}
    footers = there.footers()
    for method in ("random_edges", "gradient_mask", "eap-margin"):
        done = footers[footers.item.str.contains(f"/{method}/")]
        for count in ("forward_passes", "backward_passes", "evaluations"):
            assert done[count].sum() == planned[method][count], (method, count)
    assert main(["resume", str(run)]) == 2, "which needs the package"
