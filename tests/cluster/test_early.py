"""Workers that are on their way before it is known what they compute: taken over by a pool, or ended."""

import threading
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace

import pytest

from pipeline.cluster import connection, early
from pipeline.cluster.early import on_its_way, taken_over
from pipeline.core.errors import ClusterError
from pipeline.core.machines import Need
from tests.processes import GUARD_SECONDS


@pytest.fixture
def ray(monkeypatch):
    """What Ray is asked for, in order; `refusal` is what keeps it from starting."""
    told = SimpleNamespace(done=[], refusal=None, ended=threading.Event())

    @contextmanager
    def connected(address, cpus, variables):
        if told.refusal is not None:
            raise told.refusal
        told.done.append((address, cpus, variables["OMP_NUM_THREADS"]))
        yield
        told.done.append("ended")
        told.ended.set()

    monkeypatch.setattr(connection, "connected", connected)
    monkeypatch.setattr(
        early, "new_actor", lambda _: SimpleNamespace(warm=SimpleNamespace(remote=told.done.append))
    )
    monkeypatch.setattr(early.ray, "is_initialized", lambda: False)
    return told


def test_a_pool_takes_the_workers_over_and_ends_them(ray):
    with on_its_way(2, Need(threads=3, memory_bytes=5), ("torch",)):
        with ExitStack() as stack:
            assert len(taken_over("local", Need(threads=3, memory_bytes=7), stack)) == 2
            assert ray.done == [("local", 6, "3"), ("torch",), ("torch",)]
        assert ray.done[-1] == "ended"


def test_what_no_pool_takes_over_ends_by_itself(ray):
    with on_its_way(1, Need(), ()):
        pass
    assert ray.ended.wait(GUARD_SECONDS)
    with ExitStack() as stack:
        assert taken_over("local", Need(), stack) == []


@pytest.mark.parametrize(("address", "need"), [("10.0.0.1:6379", Need()), ("local", Need(threads=2))])
def test_a_pool_that_needs_something_else_waits_until_they_are_gone(ray, address, need):
    with on_its_way(1, Need(), ()), ExitStack() as stack:
        assert taken_over(address, need, stack) == []
        assert ray.done[-1] == "ended"


def test_where_ray_did_not_start_a_pool_tries_again(ray):
    ray.refusal = ClusterError("Ray did not start")
    with on_its_way(1, Need(), ()), ExitStack() as stack:
        assert taken_over("local", Need(), stack) == []


def test_a_ray_that_is_there_already_is_enough(ray, monkeypatch):
    monkeypatch.setattr(early.ray, "is_initialized", lambda: True)
    with on_its_way(1, Need(), ()):
        assert ray.done == []
