"""What Prefect is shown, and that neither a run's work nor its end depends on whether it can be."""

import threading

import httpx
import pytest

from flows import artifacts
from flows.artifacts import View
from flows.steps import Work
from pipeline.schedule.session import Event


def event(done):
    return Event("item", "a", done=done, total=4)


@pytest.fixture
def prefect(monkeypatch):
    """Prefect's calls, as a list of what they were given; `behave(name, arguments)` is what they do."""

    class Calls(list):
        behave = staticmethod(lambda name, arguments: "an id")

    calls = Calls()
    for name in ("create_table_artifact", "create_progress_artifact", "update_progress_artifact"):

        def call(name=name, **arguments):
            calls.append((name, arguments))
            return calls.behave(name, arguments)

        monkeypatch.setattr(artifacts, name, call)
    return calls


def test_everything_is_shown_in_order_and_the_last_progress_counts(prefect):
    told = []
    view = View(told.append)
    view.show_table("plan", [{"a": 1}], "a run")
    view.show_progress(event(0))
    view.show_progress(event(4), last=True)
    view.close(60)
    assert prefect[0] == (
        "create_table_artifact",
        {"key": "plan", "table": [{"a": 1}], "description": "a run"},
    )
    assert prefect[-1][1]["progress"] == 100
    assert (view.gone, told) == (None, [])


def test_who_shows_something_never_waits_for_prefect(prefect):
    answer = threading.Event()
    prefect.behave = lambda *_: answer.wait(60)
    told = []
    view = View(told.append)
    for number in range(100):
        view.show_progress(event(number), last=True)
        view.show_table("plan", [], "")
    assert len(prefect) <= 1, "all else waits for the answer to the first"
    view.close(0)
    assert told == [], "whoever breaks off says nothing of Prefect"
    view.close(0.1)
    assert told == ["no answer for 0 s"] == [view.gone]
    answer.set()


def test_after_the_first_request_that_does_not_arrive_none_is_sent(prefect):
    def refuse(name, arguments):
        raise RuntimeError("Failed to reach API") from httpx.ConnectError("Connection refused")

    prefect.behave = refuse
    gone = threading.Event()
    told = []
    view = View(lambda why: (told.append(why), gone.set()))
    view.show_table("plan", [], "")
    assert gone.wait(60)
    view.show_table("failures", [], "")
    view.show_progress(event(1), last=True)
    view.close(60)
    assert len(prefect) == 1
    assert told == ["Connection refused"] == [view.gone]


def test_what_prefect_will_not_take_keeps_nothing_else_from_it(prefect):
    def picky(name, arguments):
        if arguments.get("key") == "plan":
            raise ValueError("no such table")

    prefect.behave = picky
    view = View(pytest.fail)
    view.show_table("plan", [], "")
    view.show_table("failures", [], "")
    view.close(60)
    assert [arguments["key"] for _, arguments in prefect] == ["plan", "failures"]


# --- work that others call ---------------------------------------------------------------------------------


class Trouble(list):
    def __call__(self, error):
        self.append(type(error))


def calling(work, *, before=None, after=None):
    """Somebody who calls the work, and fails before or after."""

    def call(*args):
        if before:
            raise before
        work(*args)
        if after:
            raise after

    return call


def test_the_result_is_what_the_work_returned_whatever_fails_around_it():
    calls = []
    for options, expected in [
        ({}, []),
        ({"before": RuntimeError()}, [RuntimeError]),
        ({"after": RuntimeError()}, [RuntimeError]),
    ]:
        work, trouble = Work(lambda x: calls.append(x) or 2 * x), Trouble()
        assert work.despite(calling(work, **options), 21, on_trouble=trouble) == 42
        assert trouble == expected
    assert calls == [21] * 3, "done once, each time"


@pytest.mark.parametrize("error", [ZeroDivisionError("ours"), KeyboardInterrupt()])
def test_what_the_work_raised_is_raised_also_where_others_made_something_else_of_it(error):
    def fail():
        raise error

    def call():
        try:
            work()
        except (ZeroDivisionError, KeyboardInterrupt):
            raise RuntimeError("the end cannot be told") from None

    work = Work(fail)
    with pytest.raises(type(error)) as caught:
        work.despite(call, on_trouble=pytest.fail)
    assert caught.value is error
