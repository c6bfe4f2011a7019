"""What is said when Ray does not start."""

import pytest
import ray

from pipeline.cluster import connection
from pipeline.cluster.connection import answering, connected, runtime_env
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
        connected("local", 1, {}),
    ):
        pass


@pytest.mark.parametrize("error", [RuntimeError("no node"), ConnectionError(), SystemExit(1)])
def test_a_ray_that_is_killed_while_it_starts_is_told_in_one_line(monkeypatch, error):
    monkeypatch.setattr(ray, "init", fails_with(error))
    with pytest.raises(ClusterError, match="a part of it was killed"), connected("local", 1, {}):
        pass


def test_any_other_failure_of_the_start_stays_what_it_is(monkeypatch):
    monkeypatch.setattr(ray, "init", fails_with(KeyError("what")))
    with pytest.raises(KeyError), connected("local", 1, {}):
        pass


@pytest.mark.parametrize(("is_lost", "told"), [(True, ClusterError), (False, OSError)])
def test_whatever_fails_once_ray_has_ended_says_that(monkeypatch, is_lost, told):
    monkeypatch.setattr(connection, "is_lost", lambda _: is_lost)
    with pytest.raises(told), answering("local"):
        raise OSError("socket")


def test_a_worker_that_ray_has_started_ahead_will_do_where_its_environment_is_the_one_asked_for(monkeypatch):
    threads = {"OMP_NUM_THREADS": "2"}
    assert runtime_env(threads) == {"env_vars": threads}
    monkeypatch.setattr(ray, "init", lambda **_: None)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    with connected("local", 1, threads):
        assert runtime_env(threads) == {}
        assert runtime_env({"OMP_NUM_THREADS": "1"}) == {"env_vars": {"OMP_NUM_THREADS": "1"}}
    assert runtime_env(threads) == {"env_vars": threads}
