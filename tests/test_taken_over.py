"""A driver that was silent, was replaced, and wakes up: whatever it was about to write, it writes nothing more.

The driver is replaced at one of the operations by which it changes the run, as Python reports them: none of the code
that writes is asked where these are.
"""

import json
import os
import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from flows.cli import main
from pipeline import RunConfig, discover, open_run
from pipeline.core.errors import RunDirectoryError
from pipeline.schedule.conduct import conduct
from pipeline.schedule.pools import open_pool
from pipeline.schedule.preparing import prepare
from pipeline.store.place.lock import LOCK_NAME, read_owner
from pipeline.store.place.owners import this_process
from pipeline.store.run import decisions
from pipeline.store.run.aggregate import aggregate
from pipeline.store.run.compact import compact
from pipeline.store.run.leftovers import sweep
from pipeline.store.run.run_dir import RunDirectory
from tests.fileops import Operation, listening
from tests.runs import content, toy_config
from tests.store.example import METHODS, payload_of, plan_of

OF_THE_LOCK = (".lock", ".cancel", "log.jsonl")  # what says who is there, and what a person is told


def counts(operation: Operation) -> bool:
    """Whether it changes what somebody will read."""
    is_of_the_lock = Path(operation.path).name.startswith((*OF_THE_LOCK, "."))
    return operation.kind in ("rename", "remove", "open") and not is_of_the_lock


def somebody_else_comes(run: Path) -> None:
    other = replace(this_process(), host="another-host", token="theirs")
    (run / LOCK_NAME).write_text(json.dumps(asdict(other)))


def somebody_else_came_and_went(run: Path) -> None:
    (run / LOCK_NAME).unlink()


either = pytest.mark.parametrize(
    "happens", [somebody_else_came_and_went, pytest.param(somebody_else_comes, marks=pytest.mark.slow)]
)


def operations(run: Path, work: Callable[[], object]) -> list[Operation]:
    """What counts of all that the work does below `run`."""
    seen: list[Operation] = []
    with listening(run, lambda operation: seen.append(operation) if counts(operation) else None):
        work()
    return seen


def replaced_at(number: int, run: Path, work: Callable[[], object], happens: Callable[[Path], None]) -> None:
    """The owner is replaced just before its `number`-th operation, which is the last one that it does."""
    seen: list[Operation] = []

    def hear(operation: Operation) -> None:
        if counts(operation):
            seen.append(operation)
            if len(seen) == number:
                happens(run)

    with listening(run, hear), pytest.raises(RunDirectoryError, match="was taken over"):
        work()
    assert seen[number:] == [], "written after the run was somebody else's"


# --- what writes, one by one: runs of plain values ----------------------------------------------------------


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A complete run of a task whose merged scores are gone, with something for everyone to do."""
    run = RunDirectory.create(tmp_path_factory.mktemp("plain") / "run", **plan_of({"gt": 2}, METHODS))
    for item in run.items:
        run.commit(item, payload_of(item))
    run.mark_complete()
    for number in (1, 2, 3):
        run.record_failure(run.items[number], number, {"error": "x"})
    for left in ("scores/.x.tmp-1", "scores/_bad-1", "scores/_bad-2"):
        (run.path / left).write_text("left")
        os.utime(run.path / left, (0, 0))
    return run.path


def plan_anew(run: RunDirectory) -> None:
    RunDirectory.create(run.path, **plan_of({"gt": 2, "ioi": 1}, METHODS), extend=True)


def damage(run: RunDirectory) -> None:
    """Finds a damaged file, twice."""
    for item in run.items[1:3]:
        (run.path / item.path).write_bytes(b"PAR1")
    run.done()


def sweep_one(path: Path) -> None:
    """As `gc` does, which goes on with other runs."""
    (swept,) = sweep(path)
    if swept.left_alone:
        raise RunDirectoryError(swept.left_alone)


WORK: dict[str, Callable[[RunDirectory], object]] = {
    "plan": plan_anew,
    "mark": lambda run: (run.mark_incomplete(), run.mark_complete()),
    "aggregate": aggregate,
    "failures": lambda run: [run.record_failure(run.items[0], n, {}) for n in (1, 2)],
    "clear failures": lambda run: (run.clear_failures(run.items[1:2]), run.clear_failures()),
    "decisions": lambda run: [decisions.write(run.path / "decisions", "s", n, {}) for n in (1, 2)],
    "items of this process": lambda run: [run.commit(item, payload_of(item)) for item in run.items[:3]],
    "set aside": damage,
}


@either
@pytest.mark.parametrize("work", WORK)
def test_an_owner_that_was_replaced_writes_nothing_more(plain, tmp_path, work, happens):
    first = shutil.copytree(plain, tmp_path / "first")
    damaged = (
        [first / item.path for item in RunDirectory.open(first).items[1:3]] if work == "set aside" else []
    )

    def go(path: Path) -> None:
        run = RunDirectory.open(path)
        with run.lock():
            WORK[work](run)

    total = len([one for one in operations(first, lambda: go(first)) if first / one.path not in damaged])
    assert total >= 2, "or it shows nothing"
    for number in range(1, total):
        run = shutil.copytree(plain, tmp_path / f"{number}")
        replaced_at(number + len(damaged), run, lambda run=run: go(run), happens)


@either
@pytest.mark.parametrize("work", [compact, sweep_one])
def test_who_looks_after_a_run_and_was_replaced_takes_nothing_away(plain, tmp_path, work, happens):
    first = shutil.copytree(plain, tmp_path / "counted")
    total = len(operations(first, lambda: work(first)))
    assert total >= 2
    for number in range(1, total):
        run = shutil.copytree(plain, tmp_path / f"{number}")
        replaced_at(number, run, lambda run=run: work(run), happens)


def test_an_item_of_a_late_worker_is_welcome(plain, tmp_path):
    """A worker owns nothing; what it writes late is what is there already."""
    run = RunDirectory.open(shutil.copytree(plain, tmp_path / "run"))
    (item, *_) = (item for item in run.items if item.kind == "scores")
    somebody_else_comes(run.path)
    run.commit(item, payload_of(item))
    assert item in run.done(deep=True)


# --- a real run ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    small = {"tasks": [{"name": "induction", "count": 4}], "evaluate": {"edge_fractions": [0.5, 1.0]}}
    methods = [{"name": "eap"}, {"name": "acdc", "threshold": 0.01, "scope": "shard"}]
    return toy_config(tmp_path_factory.mktemp("results"), methods=methods, **small)


@pytest.fixture(autouse=True)
def _looks_rarely(monkeypatch):
    """Who looks every few seconds whether it was replaced would hear of it by a signal, at some moment."""
    monkeypatch.setattr("pipeline.schedule.control.POLL_SECONDS", 3600.0)


def drive(config, path: Path, **options) -> None:
    with (
        closing(prepare(config, path, **options)) as session,
        closing(open_pool(session, local=True)) as pool,
    ):
        conduct(session, pool)


def test_a_driver_that_was_replaced_before_it_evaluates_leaves_the_newer_run_as_it_is(config, tmp_path):
    """Another one extends the run meanwhile, finishes it, and lets go."""
    run, newer = tmp_path / "run", {}
    more = RunConfig.from_mapping({**config.to_mapping(), "methods": [{"name": "node_patching"}]})

    def hear(operation: Operation) -> None:
        if operation.path == "circuits" and not newer:
            newer["extended"] = "by the other"
            (run / LOCK_NAME).unlink()  # silent for a minute
            assert discover(more, local=True, extend=run).is_complete
            newer.update(content(run))

    with listening(run, hear), pytest.raises(RunDirectoryError, match="was taken over"):
        drive(config, run)
    assert newer.pop("extended") == "by the other"
    now = content(run)
    assert {name for name in {*now, *newer} if newer.get(name) != now.get(name)} <= {"log.jsonl"}
    assert open_run(run).is_complete
    assert read_owner(run) is None


@pytest.mark.slow
@pytest.mark.timeout(900)
@either
def test_a_driver_that_was_replaced_at_any_moment_writes_nothing_more(config, tmp_path, happens):
    first = tmp_path / "first"
    seen = operations(tmp_path, lambda: drive(config, first))
    names = {Path(one.path).name.partition("--")[0] for one in seen}
    expected = {
        "plan.json",
        "run.yaml",
        "manifest.json",
        "merged.parquet",
        "faithfulness.parquet",
        "report.html",
    }
    assert names >= {*expected, "_SUCCESS.json", "induction", "shard-00000.parquet"}
    for number in range(1, len(seen)):
        run = tmp_path / f"{number}"
        run.mkdir()
        replaced_at(number, run, lambda run=run: drive(config, run), happens)
        shutil.rmtree(run)


@pytest.mark.parametrize(("command", "code"), [("compact", 1), ("gc", 0)])
def test_a_command_of_an_owner_that_was_replaced_says_so(plain, tmp_path, capsys, command, code):
    run = shutil.copytree(plain, tmp_path / "run")

    def hear(operation: Operation) -> None:
        if counts(operation) and read_owner(run) is not None:
            somebody_else_came_and_went(run)

    with listening(run, hear):
        assert main([command, str(run)]) == code
    told = capsys.readouterr()
    assert "was taken over while this process was silent" in told.out + told.err
