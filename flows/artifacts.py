"""What Prefect's pages show of a run: the plan, progress, failures, faithfulness.

Knows Prefect's artifacts. They are a view: nothing is ever read back, and a run goes on when one cannot be
written.
"""

import time
from collections.abc import Callable
from typing import Any

from prefect.artifacts import create_progress_artifact, create_table_artifact, update_progress_artifact

from pipeline.planning import evaluation_table, work_table
from pipeline.session import Event, OnEvent, Session
from pipeline.store.results import open_run

SECONDS = 2.0  # between two updates of the progress: every one is a request


class ProgressArtifact:
    """Passes events on and keeps a progress artifact up to date, at most every two seconds."""

    def __init__(self, session: Session, on_event: OnEvent) -> None:
        self._on_event = on_event
        self._updated = time.monotonic()
        self._id = quietly(
            create_progress_artifact, progress=_percent(session.event("begin", "")), key="progress"
        )

    def __call__(self, event: Event) -> None:
        self._on_event(event)
        if self._id is not None and time.monotonic() - self._updated >= SECONDS:
            self._updated = time.monotonic()
            quietly(update_progress_artifact, artifact_id=self._id, progress=_percent(event))

    def finish(self, session: Session) -> None:
        if self._id is not None:
            quietly(
                update_progress_artifact, artifact_id=self._id, progress=_percent(session.event("note", ""))
            )


def show_plan(session: Session) -> None:
    """The table of `circuits plan`."""
    quietly(
        create_table_artifact,
        key="plan",
        table=[*work_table(session.plan), *evaluation_table(session.plan)],
        description=str(session.path),
    )


def show_failures(session: Session) -> None:
    """A row per item that is missing, with the last thing that was said about it."""
    last = {record["name"]: record for record in session.directory.failures()}
    rows = [
        {
            "item": item.name,
            "attempts": last.get(item.name, {}).get("attempt", 0),
            "message": last.get(item.name, {}).get("message", ""),
            "next": last.get(item.name, {}).get("next_step", ""),
        }
        for item in session.missing
    ]
    if rows:
        quietly(create_table_artifact, key="failures", table=rows, description="missing items")


def show_faithfulness(session: Session) -> None:
    """The table of faithfulness."""
    if (session.path / "faithfulness.parquet").exists():
        rows = open_run(session.path).faithfulness().to_dict("records")
        quietly(create_table_artifact, key="faithfulness", table=rows, description=str(session.path))


def quietly(function: Callable[..., Any], **arguments: Any) -> Any:
    """What the call returns, or None where Prefect has no answer: scores matter more than their view."""
    try:
        return function(**arguments)
    except Exception:  # noqa: BLE001 - whatever the API or the network raises
        return None


def _percent(event: Event) -> float:
    return 100.0 * event.done / max(1, event.total)
