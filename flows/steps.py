"""The steps of `pipeline.run` as Prefect tasks.

Knows Prefect. Holds no logic: a step is the function that it is given, shown under a title.
"""

from collections.abc import Callable
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE


def as_task(title: str, function: Callable[..., Any], *args: Any) -> Any:
    """Calls `function` as one Prefect task.

    No retries and no cache: the run directory is what continues a run.
    """
    shown = task(name=title, retries=0, cache_policy=NO_CACHE, persist_result=False, log_prints=False)
    return shown(function)(*args)
