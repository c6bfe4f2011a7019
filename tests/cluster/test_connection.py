"""What is said when Ray does not start."""

import pytest
import ray

from pipeline.cluster.connection import connected
from pipeline.core.errors import ClusterError


def fails_with(error):
    def init(**_):
        raise error

    return init


def test_a_machine_that_is_too_busy_to_start_ray_is_told_what_to_type(monkeypatch):
    slow = Exception("The current node timed out during startup. This could happen because some\nmore")
    monkeypatch.setattr(ray, "init", fails_with(slow))
    with (
        pytest.raises(
            ClusterError, match=r"Ray did not start .* timed out during startup.*the same command tries again"
        ),
        connected("local", 1),
    ):
        pass


def test_any_other_failure_of_the_start_stays_what_it_is(monkeypatch):
    monkeypatch.setattr(ray, "init", fails_with(KeyError("what")))
    with pytest.raises(KeyError), connected("local", 1):
        pass
