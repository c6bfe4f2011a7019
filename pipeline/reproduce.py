"""One item of a run again, alone and in this process, to see why it fails.

Knows how an item is computed. Commits nothing, records nothing and takes no lock: the run may be under way.
"""

import time
from collections.abc import Sequence

from pipeline.config import RunConfig
from pipeline.core.documents import suggest
from pipeline.core.errors import RunDirectoryError
from pipeline.schedule import make_plan, recorded_prompts
from pipeline.schedule.drives import search_alone
from pipeline.schedule.pools import settings_of
from pipeline.store.place.where import Place
from pipeline.store.run.run_dir import RunDirectory
from pipeline.workers import execute
from pipeline.workers.local import LocalPool


def reproduce(path: str | Place, name: str, overrides: Sequence[str] = ()) -> str:
    """What is said when the item of that name is computed; whatever its computation raises comes through.

    `overrides` as for `RunConfig.resumed`, which wants one for foreign code.

    RunDirectoryError for an unknown name, or when the config no longer gives the item that the run has.
    """
    directory = RunDirectory.open(path)
    items = {item.name: item for item in directory.items}
    if name not in items:
        raise RunDirectoryError(
            f"{path}: has no item {name!r}{suggest(name, items)}; see: circuits failures {path}"
        )
    item = items[name]
    config = RunConfig.resumed(directory.path, overrides)
    plan = make_plan(config, recorded=recorded_prompts(directory.path, config))
    if plan.item_keys.get(item) != directory.item_keys[item]:
        raise RunDirectoryError(
            f"{path}: {name} would be another item today: its parameters or the model's files have changed; run the "
            "config into a new directory"
        )
    settings, since = settings_of(plan, directory.path), time.perf_counter()
    if plan.is_pooled(item):
        rows = search_alone(
            plan, item, LocalPool(execute.opener(settings)), directory.used_prompts(item.task)
        )
    else:
        rows = execute.rehearse(item, execute.open_replica(settings))
    seconds = time.perf_counter() - since
    return f"{name} gives {rows} rows in {seconds:.2f} s, nothing was written; next: circuits resume --failed {path}"
