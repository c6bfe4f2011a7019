"""What Prefect's pages show of a run: the plan, progress, failures, faithfulness.

Knows Prefect's artifacts. They are a view: nothing is ever read back, no run waits for them, and one goes on when they
cannot be written.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any

from prefect.artifacts import create_progress_artifact, create_table_artifact, update_progress_artifact

from pipeline.schedule import evaluation_table, work_table
from pipeline.schedule.session import Event, Session
from pipeline.store.run.opened import open_run

SECONDS = 2.0  # between two updates of the progress: every one is a request
PATIENCE = 30.0  # seconds in which Prefect may take at the end what it has not taken yet


class View:
    """Prefect's pages of one run. What is to be shown is sent by a thread of its own, in order; after the first request
    that does not arrive nothing is sent any more, and `gone` says why."""

    def __init__(self, on_gone: Callable[[str], None]) -> None:
        self.gone: str | None = None
        self._on_gone = on_gone
        self._waiting: deque[tuple[Callable[..., Any], dict[str, Any]]] = deque()
        self._news = threading.Condition()
        self._progress: float | None = None  # the latest that is not sent yet
        self._artifact: Any = None
        self._updated = time.monotonic()
        self._at_work = self._closing = False
        context = copy_context()  # who is asked, and for which flow run, stands in it
        threading.Thread(target=context.run, args=(self._send,), name="prefect-view", daemon=True).start()

    def show_table(self, key: str, table: list[dict[str, Any]], description: str) -> None:
        """A table; returns at once."""
        with self._news:
            self._waiting.append(
                (create_table_artifact, {"key": key, "table": table, "description": description})
            )
            self._news.notify()

    def show_progress(self, event: Event, *, last: bool = False) -> None:
        """How far the run is, at most every two seconds; returns at once."""
        with self._news:
            if last or self._artifact is None or time.monotonic() - self._updated >= SECONDS:
                self._updated = time.monotonic()
                self._progress = 100.0 * event.done / max(1, event.total)
                self._news.notify()

    def close(self, patience: float) -> None:
        """Waits until all is shown, or until Prefect is known to be gone: after so many seconds it is."""
        with self._news:
            self._closing = True
            self._news.notify()
            in_time = self._news.wait_for(lambda: self.gone is not None or self._is_idle(), patience)
        if not in_time and patience:
            self._is_gone(f"no answer for {patience:.0f} s")

    def _is_idle(self) -> bool:
        return not self._at_work and not self._waiting and self._progress is None

    def _is_gone(self, why: str) -> None:
        with self._news:
            first, self.gone = self.gone is None, self.gone or why
            self._news.notify_all()
        if first:
            self._on_gone(self.gone)

    def _send(self) -> None:
        while (sent := self._next()) is not None:
            function, arguments = sent
            try:
                found = function(**arguments)
                if function is create_progress_artifact:
                    self._artifact = found
            except Exception as error:  # noqa: BLE001 - whatever the API or the network raises
                if (why := unreachable(error)) is not None:
                    self._is_gone(why)
            finally:
                with self._news:
                    self._at_work = False
                    self._news.notify_all()

    def _next(self) -> tuple[Callable[..., Any], dict[str, Any]] | None:
        with self._news:
            self._news.wait_for(lambda: self.gone is not None or self._closing or not self._is_idle())
            if self.gone is not None or self._is_idle():
                return None
            self._at_work = True
            if self._waiting:
                return self._waiting.popleft()
            progress, self._progress = self._progress, None
            if self._artifact is None:
                return create_progress_artifact, {"progress": progress, "key": "progress"}
            return update_progress_artifact, {"artifact_id": self._artifact, "progress": progress}


@contextmanager
def viewed(session: Session, on_gone: Callable[[str], None], hang_up: Callable[[], None]) -> Iterator[View]:
    """Prefect's pages of the session from its plan to what has come of it. Where Prefect is gone in the end, nothing
    that it does by itself may wait for an answer: `hang_up` is called."""
    view = View(on_gone)
    table = [*work_table(session.plan), *evaluation_table(session.plan)]
    view.show_table("plan", table, str(session.path))
    view.show_progress(session.event("begin", ""))
    patience = 0.0  # what breaks off is not kept waiting
    try:
        yield view
        view.show_progress(session.event("note", ""), last=True)
        if rows := failures(session):
            view.show_table("failures", rows, "missing items")
        if (session.path / "faithfulness.parquet").exists():
            rows = open_run(session.path).faithfulness().to_dict("records")
            view.show_table("faithfulness", rows, str(session.path))
        patience = PATIENCE
    finally:
        view.close(patience)
        if view.gone:
            hang_up()


def failures(session: Session) -> list[dict[str, Any]]:
    """A row per item that is missing, with the last thing that was said about it."""
    last = {record["name"]: record for record in session.directory.failures()}
    return [
        {
            "item": item.name,
            "attempts": last.get(item.name, {}).get("attempt", 0),
            "message": last.get(item.name, {}).get("message", ""),
            "next": last.get(item.name, {}).get("next_step", ""),
        }
        for item in session.missing
    ]


def quietly(function: Callable[..., Any], **arguments: Any) -> Any:
    """What the call returns, or None where Prefect has no answer: scores matter more than their view."""
    try:
        return function(**arguments)
    except Exception:  # noqa: BLE001 - whatever the API or the network raises
        return None


def unreachable(error: BaseException | None) -> str | None:
    """Why Prefect could not be asked at all, where that is what the error says; one about what was asked is None."""
    import httpx

    while error is not None:
        if isinstance(error, httpx.TransportError | OSError):
            return " ".join(str(error).split()) or type(error).__name__
        error = error.__cause__ or error.__context__
    return None
