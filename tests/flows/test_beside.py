"""Work that somebody shows beside it: it waits for nobody, and who shows it sees every step end as it did."""

import sys
import threading
from pathlib import Path

import pytest

from flows import beside as module
from flows.beside import shown_beside
from flows.server import may_be_named
from pipeline.schedule.session import Event
from tests.processes import GUARD_SECONDS


@pytest.fixture(autouse=True)
def no_patience(monkeypatch):
    """Who shows it starts with the first item, never because of the clock."""
    monkeypatch.setattr(module, "PATIENCE", GUARD_SECONDS)


def begin():
    return Event("begin", "", done=0, total=2)


def item(done=1):
    return Event("item", "a", done=done, total=2)


def test_the_work_is_done_before_anybody_begins_to_show_it():
    done, seen = [], []

    def show(beside):
        assert beside.wait()
        for title, join in beside.steps():
            join()
            seen.append((title, list(done)))

    with shown_beside(show) as beside:
        beside.hear(begin())
        for title in ("wave 1", "wave 2"):
            beside.step(title, done.append, title)
        assert seen == [], "nothing has told that it may begin"
    assert seen == [("wave 1", ["wave 1", "wave 2"]), ("wave 2", ["wave 1", "wave 2"])]


def test_it_is_shown_from_the_first_item_on_and_hears_the_latest_event_first():
    heard, shown = [], threading.Event()

    def show(beside):
        assert beside.wait()
        beside.listen(lambda event: (heard.append(event.done), shown.set()))
        assert list(beside.steps()) == []

    with shown_beside(show) as beside:
        beside.hear(begin())
        beside.hear(item(1))
        assert shown.wait(GUARD_SECONDS)
        beside.hear(item(2))
    assert heard == [1, 2]


def test_a_step_that_fails_fails_where_it_is_shown_and_so_does_the_run():
    seen = []

    def show(beside):
        try:
            for _, join in beside.steps():
                join()
        except ZeroDivisionError as error:
            seen.append(error)

    with pytest.raises(ZeroDivisionError) as caught, shown_beside(show) as beside:
        beside.step("wave 1", lambda: 1 / 0)
    assert seen == [caught.value]


def test_what_fails_between_two_steps_is_seen_after_the_last():
    seen = []

    def show(beside):
        try:
            seen.extend(title for title, _ in beside.steps())
        except OSError as error:
            seen.append(str(error))

    with pytest.raises(OSError, match="gone"), shown_beside(show) as beside:  # noqa: PT012
        beside.step("wave 1", lambda: None)
        raise OSError("gone")
    assert seen == ["wave 1", "gone"]


def test_what_never_began_is_not_shown():
    shown = []
    with pytest.raises(OSError, match="no workers"), shown_beside(lambda beside: shown.append(beside.wait())):
        raise OSError("no workers")
    assert shown == [False]


def test_a_run_that_is_broken_off_does_not_wait_for_who_never_comes(monkeypatch):
    monkeypatch.setattr(module, "LEAVING", 0.0)
    over, told = threading.Event(), []

    def show(beside):
        over.wait(GUARD_SECONDS)
        told.append(beside.wait())

    with pytest.raises(KeyboardInterrupt), shown_beside(show) as beside:  # noqa: PT012
        beside.hear(item())
        raise KeyboardInterrupt
    assert told == []
    threads = [one for one in threading.enumerate() if one.name == "prefect-flow"]
    over.set()
    for thread in threads:
        thread.join(GUARD_SECONDS)
    assert told == [False]


@pytest.mark.parametrize(
    ("files", "variables", "expected"),
    [
        ({}, {}, False),
        ({"pyproject.toml": "dependencies = ['prefect']"}, {}, False),
        ({}, {"PREFECT_API_URL": "http://127.0.0.1:4200/api"}, True),
        ({}, {"PREFECT_PROFILE": "team"}, True),
        ({"pyproject.toml": "[tool.prefect]"}, {}, True),
        ({".env": "PREFECT_API_URL=x"}, {}, True),
        ({"home/profiles.toml": "PREFECT_API_URL = 'x'"}, {}, True),
    ],
)
def test_a_server_may_be_named_wherever_prefect_looks(tmp_path, monkeypatch, files, variables, expected):
    monkeypatch.delitem(sys.modules, "prefect", raising=False)
    monkeypatch.chdir(tmp_path)
    for name in ("PREFECT_API_URL", "PREFECT_PROFILE", "PREFECT_PROFILES_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "home"))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    for name, text in files.items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(text)
    assert may_be_named() == expected
