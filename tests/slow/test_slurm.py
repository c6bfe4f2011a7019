"""The batch script of infra/slurm on a Slurm of two machines, each in namespaces of its own on this one."""

import os

import pytest
import yaml

from pipeline import open_run
from tests.infra.nodes import ROOT
from tests.infra.slurm import HOSTS, slurm
from tests.runs import items_of, score_files
from tests.slow.survival import some_seconds

pytestmark = [pytest.mark.slow, pytest.mark.long]

SCRIPT = ROOT / "infra" / "slurm" / "circuits.sbatch"
SMALL = ("--gpus-per-node=0", "--cpus-per-task=2")
OVER = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT"}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    if os.geteuid() != 0:
        pytest.skip("only root may make namespaces and start Slurm's daemons")
    with slurm(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


@pytest.fixture
def submit(cluster, tmp_path):
    (tmp_path / "infra").symlink_to(ROOT / "infra")

    def submit():
        return cluster.type("sbatch", "--parsable", *SMALL, SCRIPT, "config.yaml", folder=tmp_path)

    return submit


def long_config(tmp_path, items):
    """Items of some hundred milliseconds."""
    mapping = some_seconds(tmp_path / "results", items * 8)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(mapping))


def its_script(cluster, job):
    cluster.type("scancel", "--batch", "--signal=TERM", job)


def its_time(cluster, job):
    """Between one and two minutes are left then, and the script asks for its SIGTERM two minutes before the end."""
    minutes = int(cluster.type("squeue", "-h", "-j", job, "-o", "%M").split(":")[-2])
    cluster.type("scontrol", "update", f"JobId={job}", f"TimeLimit={minutes + 2}")


def everything(cluster, job):
    cluster.type("scancel", job)


@pytest.mark.parametrize("end", [its_script, its_time, everything])
def test_a_job_that_is_ended_leaves_nothing_behind_and_goes_on(cluster, submit, tmp_path, end):
    items = 512 if end is its_time else 128  # Slurm looks at the clock every half minute
    long_config(tmp_path, items)

    def runs():
        return list((tmp_path / "results").glob("toy-*"))

    stopped = submit()
    cluster.wait_for(lambda: any(len(score_files(run)) >= 3 for run in runs()))
    end(cluster, stopped)
    cluster.wait_for(lambda: cluster.state(stopped) in OVER)
    cluster.wait_for(lambda: not cluster.of_jobs())
    (run,) = runs()
    said = (tmp_path / f"slurm-{stopped}.out").read_text()
    assert not list(tmp_path.glob(".circuits-*")), "the token has to go"
    if end is not everything:
        assert "stopped; the same submission goes on where it was" in said
        assert not (run / ".lock").exists()
    done = len(open_run(run).directory.done())
    assert done > 0
    assert not open_run(run).status()["complete"], "stopped too late to show anything"

    again = submit()
    cluster.wait_for(lambda: cluster.state(again) in OVER)

    said = (tmp_path / f"slurm-{again}.out").read_text()
    assert cluster.state(again) == "COMPLETED", said
    assert open_run(run).status()["complete"]
    assert len(items_of(said)) == items - done
    for host in HOSTS:
        assert "untime started" in (tmp_path / f"slurm-{again}-{host}.out").read_text()
    cluster.wait_for(lambda: not cluster.of_jobs())
    assert not list(tmp_path.glob(".circuits-*"))
