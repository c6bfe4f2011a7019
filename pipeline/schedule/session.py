"""What one process knows of the run that it owns: what is done, what has failed, why it stopped.

Knows what a failure means for the rest and what a person types next. Does not know the order of steps, nor how
an item is computed.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pipeline.config import RunConfig
from pipeline.core.errors import ClusterError
from pipeline.core.items import EVALUATIONS, Item
from pipeline.schedule import Plan
from pipeline.store.place.atomic import give_reserve
from pipeline.store.place.where import Place, remedy
from pipeline.store.run import circuits as faithfulness_files
from pipeline.store.run.log import RunLog
from pipeline.store.run.run_dir import RunDirectory
from pipeline.workers.jobs import Failure, Outcome, failure_kind


@dataclass(frozen=True)
class Event:
    """Something that a person may want to see. `done` and `failed` count items of `total` at that moment."""

    kind: Literal["begin", "item", "circuits", "retry", "failed", "step", "note"]
    text: str
    seconds: float = 0.0
    done: int = 0
    failed: int = 0
    total: int = 0


OnEvent = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Shows nothing."""


class Session:
    """A run directory that this process owns, with what is done and what has failed. Close it to let go."""

    def __init__(self, plan: Plan, directory: RunDirectory, lock: ExitStack) -> None:
        self.plan = plan
        self.directory = directory
        self._lock = lock
        self._log: RunLog | None = None  # begun with the first thing to do
        self._counted: tuple[dict[str, int], int] | None = None  # under these limits
        self.done: set[Item] = directory.done(item for item in plan.items if directory.counts(item))
        self.tried: dict[Item, int] = {}
        self.failed: set[Item] = set()  # given up; of earlier runs: what another attempt would not help
        for record in directory.failures():
            if "failure" not in record:  # unreadable
                continue
            item = Item.from_dict(record)
            self.tried[item] = max(self.tried.get(item, 0), record["attempt"])
            given_up = record.get("final") and record["failure"] in ("input", "error")
            if given_up and item.kind != EVALUATIONS:  # which every run tries again
                self.failed.add(item)
        self.failed -= self.done
        self.stopped: str | None = None  # why nothing further is computed
        self.not_evaluated: list[str] = []  # what is incomplete besides items: evaluations of shards, by name

    @property
    def config(self) -> RunConfig:
        return self.plan.config

    @property
    def path(self) -> Place:
        return self.directory.path

    @property
    def items(self) -> list[Item]:
        """What is to be done, in the order of the plan: all of it, but for shards beyond a limit (`until`)."""
        return [item for item in self.plan.items if self.directory.counts(item)]

    @property
    def pending(self) -> list[Item]:
        """What is neither done nor failed, in the order of the plan."""
        return [item for item in self.items if item not in self.done and item not in self.failed]

    @property
    def missing(self) -> list[Item]:
        """What is not done, for whatever reason."""
        return [item for item in self.items if item not in self.done]

    @property
    def is_complete(self) -> bool:
        """Whether nothing is missing, in items or in evaluation."""
        return not self.missing and not self.not_evaluated

    @property
    def problems(self) -> list[str]:
        """What is incomplete besides items, and why nothing further is computed, in words."""
        stopped = [] if self.stopped is None else [self.stopped]
        return [*(f"{name} could not be evaluated" for name in self.not_evaluated), *stopped]

    @property
    def evaluation_key(self) -> dict[str, str]:
        """What the table of faithfulness depends on: the run, the settings, the scores as they are now, and which
        prompts it leaves out."""
        without = [item.name for item in self.missing if item.kind == "baseline"]
        return {
            "run_key": self.plan.run_key,
            "evaluate_key": self.config.evaluate.key,
            "scores_digest": faithfulness_files.scores_digest(self.path),
            "incomplete": json.dumps(without),
        }

    @property
    def fullness(self) -> str:
        """What is said when the disk is full, or the store refuses."""
        return f"{remedy(self.path)}, then: circuits resume {self.path}"

    @property
    def is_full(self) -> bool:
        """Whether it was a full disk that ended the run."""
        return self.stopped == self.fullness

    def event(self, kind: Any, text: str, seconds: float = 0.0) -> Event:
        return Event(kind, text, seconds, len(self.done), len(self.failed), self._n_items)

    @property
    def _n_items(self) -> int:
        """How many `items` there are, counted anew where the limits are others: every item tells of itself."""
        limits = self.directory.limits
        if self._counted is None or self._counted[0] is not limits:
            self._counted = limits, len(self.items)
        return self._counted[1]

    @contextmanager
    def continued(self) -> Iterator[None]:
        """Who loses the workers within it is told what to type next: a ClusterError names the run."""
        try:
            yield
        except ClusterError as error:
            raise ClusterError(f"{error}; next: circuits resume {self.path}") from None

    def logged(self, on_event: OnEvent) -> OnEvent:
        """Passes events on, and keeps them in the run's log."""
        log = self._log = RunLog(self.path)
        log.begin(f"{len(self.done)} of {len(self.items)} items are done, {len(self.failed)} have failed")

        def both(event: Event) -> None:
            facts = asdict(event)
            log.write(facts.pop("kind"), facts.pop("text"), **facts)
            on_event(event)

        return both

    def close(self) -> None:
        if self._log is not None:
            self._log.write("end", f"{len(self.done)} of {len(self.items)} items are done")
        self._lock.close()


def enter(session: Session, outcome: Outcome, on_event: OnEvent) -> None:
    """Notes in the session how an attempt at an item has ended, and what that means for the rest."""
    item = outcome.job
    if outcome.failure is None:
        session.done.add(item)
    elif outcome.final:
        session.failed.add(item)
    note(session, "item", item, outcome, on_event)
    if outcome.failure is None or session.stopped is not None:
        return
    n_failed, n_items = len(session.failed), len(session.items)
    if n_failed > session.config.failures.tolerated(n_items):
        session.stopped = (
            f"{n_failed} of {n_items} items have failed, more than failures.tolerate: nothing further is "
            "computed"
        )


def note(session: Session, kind: str, item: Item, outcome: Outcome, on_event: OnEvent) -> None:
    """Tells how an attempt at an item, or at the `circuits` of an evaluation, has ended, and records a failure in the
    directory. A full disk ends the run. RunDirectoryError when the directory is no longer there."""
    session.directory.require()
    session.tried[item], failure = outcome.attempt, outcome.failure
    if failure is None:
        on_event(session.event(kind, item.name, outcome.seconds))
        return
    _record(session, item, outcome, failure)
    text = f"{item.name}: {failure.message}" if item.name not in failure.message else failure.message
    on_event(session.event("failed" if outcome.final else "retry", text, outcome.seconds))
    if failure.kind == "storage":
        session.stopped = session.fullness


def _record(session: Session, item: Item, outcome: Outcome, failure: Failure) -> None:
    """The failure's record. On a full disk the reserve gives way to it."""
    info = {
        **{"failure" if name == "kind" else name: value for name, value in asdict(failure).items()},
        "seconds": round(outcome.seconds, 3),
        "final": outcome.final,
        "next_step": _next_step(session, item, failure) if outcome.final else "tried again in the same run",
    }
    try:
        session.directory.record_failure(item, outcome.attempt, info)
    except OSError as error:
        if failure_kind(error) != "storage":
            raise
        give_reserve(session.path)
        session.directory.record_failure(item, outcome.attempt, info)


def _next_step(session: Session, item: Item, failure: Failure) -> str:
    path = session.path
    more_memory = f"give the workers more memory or lower cluster.batch_size, then: circuits resume {path}"
    see_to = f"see to the file system or network that the message names, then: circuits resume {path}"
    if item.kind == EVALUATIONS:
        mended = f"mend what the message names, then: circuits resume {path}"
        return {"died": more_memory, "io": see_to, "storage": session.fullness}.get(failure.kind, mended)
    alone = f"to see it alone: circuits reproduce {path} {item.name}"
    return {
        "input": f"mend what the message names, then: circuits resume --failed {path}",
        "error": f"{alone}; once mended: circuits resume --failed {path}",
        "died": f"{more_memory}; {alone}",
        "io": see_to,
        "storage": session.fullness,
    }[failure.kind]
