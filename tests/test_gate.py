"""The gate before the workers of a run is shut once there is enough, until it is opened."""

from threading import Thread

import pytest

from tests.gate import Gate, opened
from tests.processes import GUARD_SECONDS


@pytest.fixture
def gate(tmp_path):
    return Gate(str(tmp_path / "gate"))


def test_a_gate_is_shut_from_so_many_files_on_until_it_is_opened(gate, tmp_path):
    run = tmp_path / "run"
    assert gate.is_open()
    gate.shut(run, 2)
    assert gate.is_open(), "there is no run yet"
    for name in ("scores/task=a/0.parquet", "scores/task=a/left.tmp", "other/0.parquet"):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).touch()
    assert gate.is_open()
    (run / "node_scores").mkdir()
    (run / "node_scores" / "0.parquet").touch()
    assert not gate.is_open()
    gate.shut(run, 2, "other/*.parquet")
    assert gate.is_open()
    gate.shut(run, 0)
    assert not gate.is_open()
    gate.open()
    assert gate.is_open()


def test_a_job_waits_until_the_gate_is_open(gate, tmp_path):
    done = []
    work = opened(gate, lambda: lambda job, attempt: done.append((job, attempt)))
    gate.shut(tmp_path, 0)
    worker = Thread(target=work, args=("job", 2))
    worker.start()
    assert not done
    gate.open()
    worker.join(GUARD_SECONDS)
    assert done == [("job", 2)]
