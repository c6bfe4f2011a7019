"""Workers that are on their way before it is known what they compute: taken over by a pool, or ended."""

import threading
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace

import pytest

from pipeline.cluster import connection, private, slots
from pipeline.cluster.early import Early
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

    def new_actor(need):
        return SimpleNamespace(warm=SimpleNamespace(remote=told.done.append))

    monkeypatch.setattr(connection, "connected", connected)
    monkeypatch.setattr(slots, "new_actor", new_actor)
    return told


def test_a_pool_takes_the_workers_over_and_ends_them(ray):
    early = Early(2, Need(threads=3), ("torch",))
    with ExitStack() as stack:
        assert len(early.taken_into(stack)) == 2
        early.abandon()
        assert ray.done == [("local", 6, "3"), ("torch",), ("torch",)]
    assert ray.done[-1] == "ended"


def test_what_no_pool_takes_over_ends_by_itself(ray):
    Early(1, Need(), ()).abandon()
    assert ray.ended.wait(GUARD_SECONDS)


def test_what_keeps_ray_from_starting_is_told_to_who_takes_it_over(ray):
    ray.refusal = ClusterError("Ray did not start")
    early = Early(1, Need(), ())
    with pytest.raises(ClusterError, match="did not start"), ExitStack() as stack:
        early.taken_into(stack)


def test_ray_still_starts_its_helpers_by_the_names_that_are_left_out():
    from ray._private.node import Node

    before = {name: getattr(Node, name) for name in private.HELPERS}
    with private.without_helpers():
        assert all(getattr(Node, name) is not function for name, function in before.items())
    assert {name: getattr(Node, name) for name in private.HELPERS} == before
