"""The kit for devices runs on the CPU, without what a device machine lacks, and loses nothing when it is stopped."""

import json
import os
import subprocess
import sys

import pytest

from tests.gpu import CARRIED, ROOT
from tests.gpu.__main__ import PARTS, budgets
from tests.gpu.record import Record, Row, held, markdown
from tests.gpu.wheels import NEEDED, command, pinned
from tests.processes import GUARD_SECONDS

ABSENT = ("ray", "prefect", "beartype")


@pytest.fixture
def without(tmp_path):
    """An environment in which every Python says that these packages are not installed."""
    absent = f"import sys\nsys.modules |= dict.fromkeys({ABSENT}, None)\n"
    (tmp_path / "sitecustomize.py").write_text(absent)
    return os.environ | {"PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}


def kit(folder, environment, *words):
    """(exit code, rows, what was said) of the kit on the CPU."""
    call = [sys.executable, "-m", "tests.gpu", "--device", "cpu", "--out", str(folder), *words]
    done = subprocess.run(
        call, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=GUARD_SECONDS
    )
    rows = json.loads((folder / "gpu.json").read_text())["rows"]
    return done.returncode, rows, done.stdout + done.stderr


@pytest.mark.slow
def test_a_device_is_compared_without_ray_prefect_and_beartype(tmp_path, without):
    words = ("--families", "llama", "--methods", "eap", "circuits", "--parts", "parity")
    code, rows, said = kit(tmp_path / "out", without, "--minutes", "600", *words)  # never a limit here
    assert code == 0, said
    verdicts = {(row["part"], row["what"]): row["verdict"] for row in rows}
    assert verdicts["parity", "llama float32, worst of 2"] == "ok"
    assert verdicts["parity", "llama bfloat16, worst of 2"] == "ok"
    assert "llama float32, worst of 2" in (tmp_path / "out" / "gpu.md").read_text()


@pytest.mark.slow
def test_every_part_runs_on_the_cpu(tmp_path, without):
    few = ("--families", "llama", "gemma2", "mixtral")  # the others are tried by tests of their own
    code, rows, said = kit(tmp_path / "out", without, "--minutes", "20", *few)
    assert code == 0, said
    assert {row["part"] for row in rows} == set(PARTS)
    (modules,) = [row for row in rows if "modules import" in row["what"]]
    assert (modules["verdict"], modules["value"]) == ("ok", 0), "all that computes is imported without them"


def test_parts_share_the_minutes_and_none_is_left_out():
    shares = dict(budgets(480.0, list(PARTS)))
    assert sum(shares.values()) == pytest.approx(480.0)
    assert min(shares.values()) > 15.0


def test_every_row_is_on_disk_as_soon_as_it_is_measured(tmp_path):
    record = Record(tmp_path, {"on": "a device"})
    for index, row in enumerate(
        (held("an | error", 1e-3, 1e-2, "exact"), held("a NaN", float("nan"), 1.0, ""))
    ):
        record.add(row)
        assert len(json.loads((tmp_path / "gpu.json").read_text())["rows"]) == index + 1
    table = (tmp_path / "gpu.md").read_text()
    assert "an \\| error | 0.001 | exact, at most 0.01 | ok" in table
    assert [row.what for row in record.bad] == ["a NaN"]


def test_a_row_with_line_breaks_stays_one_line_of_the_table():
    table = markdown({}, [Row("what", note="one\ntwo")])
    assert table.splitlines()[-1].endswith("| one two |")


def test_what_is_carried_is_of_the_versions_that_the_project_pins_and_goes_where_git_ignores_it():
    wanted = pinned()
    assert len(wanted) == len(NEEDED)
    assert all("==" in one for one in wanted)
    assert command(wanted)[-len(wanted) :] == wanted
    ignored = subprocess.run(["git", "check-ignore", "-q", str(CARRIED)], cwd=ROOT, check=False)
    assert ignored.returncode in (0, 128), "128: not a checkout"
