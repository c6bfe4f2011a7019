"""The steps of `pipeline.schedule.conduct` as Prefect tasks, and how a piece of work
ended held apart from what Prefect says.

Knows Prefect. Holds no logic: a step is the function that it is given, shown under a title.
"""

from collections.abc import Callable
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE


class Work:
    """A function that others call in our place: how it ended is known, whatever becomes of them."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self.has_begun = False
        self.result: Any = None
        self.error: BaseException | None = None

    def __call__(self, *args: Any) -> Any:
        self.has_begun = True
        try:
            self.result = self._function(*args)
        except BaseException as error:
            self.error = error
            raise
        return self.result

    def despite(self, others: Callable[..., Any], *args: Any, on_trouble: Callable[[Exception], None]) -> Any:
        """Has `others` call it, and returns or raises what itself did. What fails around it is told to `on_trouble`;
        where it was never called, it is called then."""
        try:
            others(*args)
        except Exception as error:  # noqa: BLE001 - of ours or of theirs
            if self.error is None:
                on_trouble(error)
                if not self.has_begun:
                    return self(*args)
        if self.error is not None:
            raise self.error
        return self.result


def as_task(title: str, function: Callable[..., Any], *args: Any) -> Any:
    """Calls `function` as one Prefect task.

    No retries and no cache: the run directory is what continues a run.
    """
    work = Work(function)

    def step(*args: Any) -> Any:  # Prefect asks a function for its name and file
        return work(*args)

    shown = task(name=title, retries=0, cache_policy=NO_CACHE, persist_result=False, log_prints=False)
    return work.despite(shown(step), *args, on_trouble=lambda _: None)
