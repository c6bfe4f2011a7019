"""How many workers fit on machines, against counts by hand; and what `auto` says of itself."""

import pytest

from pipeline import make_plan
from pipeline.core.errors import ConfigError
from pipeline.core.machines import (
    GIB,
    Machine,
    Need,
    capacity,
    fits,
    free_memory,
    gpus_needed,
    reasons,
    this_machine,
)
from tests.runs import toy_config


@pytest.mark.parametrize(
    ("machine", "need", "count"),
    [
        (Machine(cpus=8), Need(), 8),
        (Machine(cpus=8), Need(threads=3), 2),
        (Machine(cpus=8, memory_bytes=10 * GIB), Need(memory_bytes=3 * GIB), 3),
        (Machine(cpus=8, memory_bytes=2 * GIB), Need(memory_bytes=3 * GIB), 0),
        (Machine(cpus=8), Need(memory_bytes=3 * GIB), 8),  # what is not known does not limit
        (Machine(cpus=8, gpus=4), Need(gpus=2), 2),
        (Machine(cpus=8, gpus=4), Need(gpus=3), 1),
        (Machine(cpus=8, gpus=4), Need(gpus=5), 0),
        (Machine(cpus=8, gpus=2), Need(gpus=0.4), 4),  # two to a device: none lies on both
        (Machine(cpus=3, gpus=2), Need(gpus=0.25), 3),
        (Machine(cpus=8, gpus=4, device_bytes=16 * GIB), Need(gpus=1, device_bytes=20 * GIB), 0),
        (Machine(cpus=8, gpus=4, device_bytes=16 * GIB), Need(gpus=2, device_bytes=20 * GIB), 2),
    ],
)
def test_workers_that_fit_are_those_of_the_scarcest_part(machine, need, count):
    assert fits(machine, need) == count


def test_a_worker_never_spans_machines():
    assert capacity([Machine(cpus=8, gpus=1)] * 4, Need(gpus=2)) == 0
    assert capacity([Machine(cpus=8, gpus=3), Machine(cpus=8, gpus=2)], Need(gpus=2)) == 2


def test_a_model_larger_than_a_device_says_how_many_it_needs():
    machine = Machine(cpus=8, gpus=4, device_bytes=16 * GIB)
    assert gpus_needed(machine, Need(gpus=1, device_bytes=40 * GIB)) == 3
    assert "16.0 GiB on 1 devices hold no worker of 40.0" in reasons(
        machine, Need(gpus=1, device_bytes=40 * GIB)
    )


def test_reasons_are_quotients():
    machine = Machine(cpus=8, gpus=4, memory_bytes=10 * GIB)
    assert (
        reasons(machine, Need(2, 1, 3 * GIB))
        == "8 CPUs / 2 = 4, 4 GPUs / 1 = 4, 10.0 GiB of free memory / 3.0 = 3"
    )


def test_this_machine_has_a_core_and_some_memory():
    assert this_machine().cpus >= 1
    assert free_memory() > 10**7


def test_a_worker_on_devices_needs_them_for_the_model_and_less_of_the_machine(tmp_path):
    on_cpu = make_plan(toy_config(tmp_path, cluster={"workers": "auto"})).need
    on_gpu = make_plan(toy_config(tmp_path, cluster={"workers": "auto", "gpus_per_worker": 2})).need
    assert (on_cpu.gpus, on_cpu.device_bytes) == (0, 0)
    assert on_gpu.gpus == 2
    assert 0 < on_gpu.device_bytes < on_gpu.memory_bytes < on_cpu.memory_bytes


@pytest.mark.parametrize(
    ("machine", "mend"),
    [
        (Machine(cpus=8), "gpus_per_worker: 0 to compute on the CPU"),
        (Machine(cpus=8, gpus=4, device_bytes=16 * GIB), "gpus_per_worker: 2"),
        (Machine(cpus=8, gpus=4, memory_bytes=GIB), "lower cluster.batch_size"),
    ],
)
def test_auto_without_room_says_what_to_change(monkeypatch, machine, mend):
    from pipeline.cluster import connection

    monkeypatch.setattr(connection, "this_machine", lambda: machine)
    monkeypatch.setattr(connection, "machines", lambda: [machine])
    with pytest.raises(ConfigError, match=r"cluster\.workers: auto finds no room") as caught:
        connection.decide(None, Need(1, 1, 2 * GIB, 20 * GIB), "local", grows=False)
    assert mend in str(caught.value)


def test_gpus_that_are_not_here_are_refused_before_anything_is_started(tmp_path, monkeypatch):
    from pipeline.schedule import pools

    def refused(have, **cluster):
        monkeypatch.setattr(pools, "gpus_here", lambda: have)
        try:
            pools.refuse_what_is_not_here(make_plan(toy_config(tmp_path, cluster=cluster)))
        except ConfigError as error:
            return str(error)
        return None

    assert "1 worker with 5 GPUs each, and this machine has 4" in refused(4, gpus_per_worker=5)
    assert refused(4, gpus_per_worker=2, workers=2) is None
    assert refused(4, gpus_per_worker=2, workers=3)
    assert refused(0, gpus_per_worker=1, workers="auto")
    assert refused(None, gpus_per_worker=5) is None, "Ray will tell"
    assert refused(0, gpus_per_worker=5, address="10.9.9.9:1") is None, "another machine's matter"
    assert refused(0, workers=9) is None
