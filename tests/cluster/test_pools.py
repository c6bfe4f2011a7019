"""Both pools keep the same promises about order, attempts and failures; Ray's also survives the workers asked."""

from contextlib import closing
from pathlib import Path

import pytest

from pipeline.cluster.private import tell_ray
from pipeline.core.errors import ConfigError, ModelError
from pipeline.core.machines import Need
from pipeline.workers.local import LocalPool
from tests.processes import GUARD_SECONDS
from tests.workers.trivial import Deed, Opener, read


@pytest.fixture(scope="module", params=["local", "ray"])
def folder(request, tmp_path_factory):
    return tmp_path_factory.mktemp(request.param)


@pytest.fixture(scope="module")
def pool(request, folder):
    """One worker of either kind, which all tests that do it no harm share."""
    if folder.name.startswith("local"):
        with closing(LocalPool(Opener(folder))) as pool:
            yield pool
    else:
        request.getfixturevalue("ray_session")
        from pipeline.cluster.pool import RayPool

        with closing(RayPool(Opener(folder))) as pool:
            yield pool


def test_every_job_comes_back_once_and_the_work_is_opened_once(pool, folder):
    jobs = [Deed(f"j{i}", shard=i % 3) for i in range(9)]
    for _ in range(2):
        outcomes = list(pool.run(jobs))
        assert sorted(o.job.name for o in outcomes) == sorted(job.name for job in jobs)
        assert all(o.failure is None and o.final and o.attempt == 1 for o in outcomes)
    assert len(read(folder, "opened")) == 1


def test_a_worker_does_all_jobs_of_a_shard_before_the_next(pool, folder):
    jobs = [Deed(f"{shard}{method}", "new task", shard) for method in "abc" for shard in (0, 1)]
    list(pool.run(jobs))
    assert [line[0] for line in read(folder)][-6:] == ["0a", "0b", "0c", "1a", "1b", "1c"]


def test_an_exception_is_tried_again_up_to_the_budget_and_then_final(pool):
    outcomes = list(pool.run([Deed("bad", script=("raise",)), Deed("good")], attempts=3))
    bad = [o for o in outcomes if o.job.name == "bad"]
    assert [(o.attempt, o.final) for o in bad] == [(1, False), (2, False), (3, True)]
    assert bad[-1].failure.kind == "error"
    assert bad[-1].failure.error == "ZeroDivisionError"
    assert bad[-1].failure.message == "by zero", "one line"
    assert "trivial.py" in bad[-1].failure.traceback
    assert bad[-1].failure.device == "testbench"
    assert bad[-1].failure.peak_memory_bytes > 1e6
    assert [o.failure for o in outcomes if o.job.name == "good"] == [None]


def test_an_exception_that_goes_away_is_forgiven(pool):
    outcomes = list(pool.run([Deed("shaky", script=("raise", "fine"))], attempts=3))
    assert [(o.attempt, o.final, o.failure is None) for o in outcomes] == [(1, False, False), (2, True, True)]


def test_bad_input_is_not_tried_again(pool):
    (outcome,) = pool.run([Deed("nan", script=("bad input",))], attempts=3)
    assert outcome.final
    assert outcome.failure.kind == "input"


def test_a_full_disk_is_not_tried_again_and_has_a_kind_of_its_own(pool):
    (outcome,) = pool.run([Deed("full", script=("disk full",))], attempts=3)
    assert outcome.final
    assert outcome.failure.kind == "storage"


def test_attempts_are_numbered_on_from_earlier_submissions(pool):
    job = Deed("again", script=("raise",))
    outcomes = list(pool.run([job], attempts=2, tried={job: 3}))
    assert [(o.attempt, o.final) for o in outcomes] == [(4, False), (5, True)]


def test_a_caller_may_stop_early_and_come_back(pool):
    for outcome in pool.run([Deed(f"j{i}") for i in range(5)]):
        assert outcome.job.name == "j0"
        break
    assert [o.job.name for o in pool.run([Deed("later")])] == ["later"]


# --- what only Ray's pool can meet ------------------------------------------------------------------------


@pytest.mark.slow
def test_a_killed_worker_costs_its_own_job_one_attempt_and_nothing_else(ray_pool, opener, tmp_path):
    jobs = [Deed("victim", script=("die", "fine")), *(Deed(f"j{i}", shard=i) for i in range(1, 6))]
    outcomes = list(ray_pool(opener, workers=2).run(jobs, attempts=3))
    victim = [o for o in outcomes if o.job.name == "victim"]
    assert [(o.attempt, o.final, o.failure is None) for o in victim] == [(1, False, False), (2, True, True)]
    assert victim[0].failure.kind == "died"
    assert "died" in victim[0].failure.message
    assert sorted(o.job.name for o in outcomes if o.failure is None) == [
        "j1",
        "j2",
        "j3",
        "j4",
        "j5",
        "victim",
    ]
    assert len(read(tmp_path)) == 7, "no other job was begun twice"


@pytest.mark.slow
def test_a_job_that_kills_every_worker_is_given_up(ray_pool, opener):
    outcomes = list(ray_pool(opener).run([Deed("poison", script=("die",)), Deed("look")], attempts=2))
    assert [(o.job.name, o.attempt, o.final) for o in outcomes] == [
        ("poison", 1, False),
        ("poison", 2, True),
        ("look", 1, True),
    ]
    assert outcomes[-1].result == {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}, "one thread, no GPU"


@pytest.mark.slow
def test_a_worker_that_dies_while_starting_is_replaced(ray_pool, tmp_path):
    pool = ray_pool(Opener(tmp_path, stumbles=1, how="die"), workers=1)
    assert [o.failure for o in pool.run([Deed("j")])] == [None]
    assert len(read(tmp_path, "opened")) == 2


@pytest.mark.slow
def test_workers_that_never_start_end_the_run_with_the_reason(ray_pool, tmp_path):
    pool = ray_pool(Opener(tmp_path, stumbles=99, how="raise"), workers=1)
    with pytest.raises(ModelError, match="workers cannot start: ZeroDivisionError: by zero"):
        list(pool.run([Deed("j")]))
    assert len(read(tmp_path, "opened")) == 3


@pytest.mark.slow
def test_a_cluster_may_send_workers_to_a_node_that_is_lost_for_a_while(ray_pool, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.cluster.slots.PAUSE_SECONDS", 0.1)
    pool = ray_pool(Opener(tmp_path, stumbles=3, how="die"), workers=1, address="auto")
    assert [o.failure for o in pool.run([Deed("j")])] == [None]
    assert len(read(tmp_path, "opened")) == 4, "one more than are given up on one machine"


@pytest.mark.slow
def test_a_cluster_on_which_every_worker_dies_ends_the_run_too(ray_pool, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.cluster.slots.PAUSE_SECONDS", 0.1)
    monkeypatch.setattr("pipeline.cluster.slots.MISSED_SECONDS", 1.0)
    pool = ray_pool(Opener(tmp_path, stumbles=99, how="die"), workers=1, address="auto")
    with pytest.raises(ModelError, match="workers cannot start: ActorDiedError"):
        list(pool.run([Deed("j")]))
    assert len(read(tmp_path, "opened")) >= 3


@pytest.mark.slow
def test_a_model_that_cannot_be_used_is_not_loaded_again(ray_pool, tmp_path):
    pool = ray_pool(Opener(tmp_path, stumbles=99, how="bad input"), workers=1)
    with pytest.raises(ModelError, match="not finite"):
        list(pool.run([Deed("j")]))
    assert len(read(tmp_path, "opened")) == 1


@pytest.mark.slow
def test_the_ray_of_the_tests_goes_on_where_another_token_is_read(ray_pool, opener, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "f" * 64)
    tell_ray()
    assert [outcome.failure for outcome in ray_pool(opener, workers=1).run([Deed("look")])] == [None]


def test_more_than_the_machine_has_is_refused_instead_of_waited_for(ray_pool, opener):
    with pytest.raises(ConfigError, match="gpus_per_worker"):
        ray_pool(opener, workers=1, need=Need(gpus=64))
    with pytest.raises(ConfigError, match=r"cluster\.workers"):
        ray_pool(opener, workers=1000)


@pytest.mark.slow
def test_workers_of_several_gpus_see_their_own_and_a_cpu_worker_sees_none(ray_pool, opener):
    jobs = [Deed(f"j{i}", shard=i, script=("meet another",)) for i in range(4)]
    outcomes = list(ray_pool(opener, workers=2, need=Need(gpus=2)).run(jobs))
    seen = {outcome.worker: outcome.result["CUDA_VISIBLE_DEVICES"] for outcome in outcomes}
    assert sorted(seen.values()) == ["0,1", "2,3"]
    (outcome,) = ray_pool(opener).run([Deed("cpu")])
    assert outcome.result["CUDA_VISIBLE_DEVICES"] == ""


@pytest.mark.slow
def test_a_straggler_is_begun_elsewhere_too_and_counts_once_and_as_no_failure(
    ray_pool, opener, tmp_path, soon
):
    jobs = [Deed(f"j/{i}", shard=i) for i in range(5)]
    jobs.insert(1, Deed("late/9", shard=9, script=("hang unless repeated",)))
    outcomes = list(ray_pool(opener, workers=2).run(jobs, attempts=1))
    assert sorted(o.job.name for o in outcomes) == sorted(job.name for job in jobs)
    assert all(o.failure is None and o.final and o.attempt == 1 for o in outcomes)
    assert [line[:2] for line in read(tmp_path) if line[0] == "late/9"] == [["late/9", "1"]] * 2


@pytest.mark.slow
def test_a_worker_that_a_signal_has_stopped_costs_nothing_where_another_is_idle(
    ray_pool, opener, soon, monkeypatch
):
    pool = ray_pool(opener, workers=2)
    jobs = [Deed(f"j/{i}", shard=i) for i in range(4)]
    jobs.append(Deed("late/9", shard=9, script=("stop unless repeated",)))
    monkeypatch.setattr(
        "pipeline.cluster.slots.STOPPED_SECONDS", GUARD_SECONDS
    )  # however late the other starts
    outcomes = list(pool.run(jobs, attempts=1))
    assert sorted(o.job.name for o in outcomes) == sorted(job.name for job in jobs)
    assert all(o.failure is None for o in outcomes)
    assert [o.failure for o in pool.run([Deed("next/0")])] == [None], "the pool goes on"


@pytest.fixture
def told(monkeypatch, tmp_path):
    """A file says that the pool has heard of a failure and has given its workers what there is to do since."""
    from pipeline.cluster.slots import Slots

    failures = []

    def hear(self, slot, real=Slots.hear):
        heard = real(self, slot)
        failures.extend([heard[1]] if heard[1] else [])
        return heard

    def wait(self, real=Slots.wait):
        if failures:
            (tmp_path / "heard").touch()
        return real(self)

    monkeypatch.setattr(Slots, "hear", hear)
    monkeypatch.setattr(Slots, "wait", wait)


@pytest.mark.slow
def test_a_copy_that_fails_does_not_count_while_the_first_goes_on(ray_pool, opener, tmp_path, soon, told):
    jobs = [Deed(f"j/{i}", shard=i) for i in range(4)]
    jobs.append(Deed("late/9", shard=9, script=("fail when repeated",)))
    outcomes = list(ray_pool(opener, workers=2).run(jobs, attempts=1))
    assert all(o.failure is None for o in outcomes)
    assert len(outcomes) == 5
    assert [line[0] for line in read(tmp_path)].count("late/9") == 2, "and is not begun a third time"


@pytest.mark.slow
def test_a_lone_worker_that_a_signal_has_stopped_is_killed_and_replaced(ray_pool, opener, monkeypatch):
    monkeypatch.setattr("pipeline.cluster.slots.STOPPED_SECONDS", 1.0)
    outcomes = list(ray_pool(opener).run([Deed("held/0", script=("stop", "fine"))], attempts=2))
    assert [(o.attempt, o.final) for o in outcomes] == [(1, False), (2, True)]
    assert outcomes[0].failure.kind == "died"
    assert "stopped by a signal" in outcomes[0].failure.message


@pytest.mark.slow
def test_jobs_that_belong_together_stay_with_their_worker(ray_pool, opener, tmp_path):
    pool = ray_pool(opener, workers=2)
    for _ in range(3):
        outcomes = pool.together({0: Deed("zero"), 1: Deed("one")})
        assert all(outcome.failure is None for outcome in outcomes.values())
    pids = {name: {line[2] for line in read(tmp_path) if line[0] == name} for name in ("zero", "one")}
    assert len(pids["zero"]) == len(pids["one"]) == 1
    assert pids["zero"] != pids["one"]
    failed = pool.together({0: Deed("zero", script=("die",)), 1: Deed("one")})
    assert (failed[0].failure.kind, failed[1].failure) == ("died", None)
    assert pool.together({0: Deed("zero")})[0].failure is None, "a successor has its place"


def test_a_cluster_by_address_refuses_what_it_can_never_place_naming_what_it_has(ray_pool, opener):
    with pytest.raises(ConfigError) as caught:
        ray_pool(opener, need=Need(gpus=5), address="10.9.9.9:1")
    assert str(caught.value) == (
        "cluster: no machine at 10.9.9.9:1 has 5 GPUs and 1 CPU for a worker; it has 1 machine with 4 GPUs and "
        "4 CPUs; lower cluster.gpus_per_worker or cluster.threads, or set cluster.wait_minutes if machines will join"
    )
    pool = ray_pool(opener, need=Need(gpus=5), address="10.9.9.9:1", wait_minutes=1)
    assert pool.size == 1, "one that grows is waited for"


@pytest.mark.slow
def test_a_cluster_with_room_for_some_of_the_workers_starts_with_these(ray_pool, opener):
    pool = ray_pool(opener, workers=9, need=Need(gpus=2), address="10.9.9.9:1")
    assert pool.size == 2
    assert all(o.failure is None for o in pool.run([Deed(f"j{i}", shard=i) for i in range(6)]))
    assert set(pool.together({0: Deed("a"), 1: Deed("b")})) == {0, 1}


@pytest.mark.slow
def test_a_job_whose_place_the_cluster_has_lost_fails_and_the_others_do_not(ray_pool, opener, monkeypatch):
    monkeypatch.setattr("pipeline.cluster.pool.PLACE_SECONDS", 1.0)
    pool = ray_pool(opener, workers=3, need=Need(gpus=2), address="10.9.9.9:1")
    outcomes = pool.together({index: Deed(f"j{index}") for index in range(3)})
    (lost,) = [outcome.failure for outcome in outcomes.values() if outcome.failure]
    assert lost.kind == "died"
    assert lost.message == (
        "no place with 2 GPUs and 1 CPU for the worker: the cluster has 1 machine with 4 GPUs and 4 CPUs"
    )


def test_with_no_number_a_cluster_gets_as_many_workers_as_it_holds(ray_pool, opener):
    assert ray_pool(opener, workers=None, need=Need(gpus=1), address="10.9.9.9:1").size == 4
    assert ray_pool(opener, workers=None, need=Need(threads=2), address="10.9.9.9:1").size == 2


@pytest.mark.parametrize(
    "error", [ConnectionError("no GCS at 10.9.9.9:1\nlong story"), RuntimeError("timed out")]
)
def test_a_cluster_that_is_not_there_is_one_line(monkeypatch, error):
    from pipeline.cluster import connection

    def init(**_):
        raise error

    monkeypatch.setattr(connection.ray, "init", init)
    monkeypatch.setattr(connection, "_knock", lambda address: None)
    with (
        pytest.raises(ConfigError, match=r"cluster\.address: '10\.9\.9\.9:1' cannot be reached") as caught,
        connection.connected("10.9.9.9:1", 1, {}),
    ):
        pass
    assert "\n" not in str(caught.value)


def test_the_local_pool_lets_a_broken_model_speak_for_itself(tmp_path: Path):
    pool = LocalPool(Opener(tmp_path, stumbles=1, how="raise"))
    with pytest.raises(ZeroDivisionError):
        list(pool.run([Deed("j")]))
