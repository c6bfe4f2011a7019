"""How many shards of a task a run with `until` looks at: a file beside the plan, which has all that there may be.

Knows the file. Does not know when prompts are enough (`pipeline.schedule.until`).
"""

from collections.abc import Mapping
from typing import Any

from pipeline.core.errors import RunDirectoryError, StorageError
from pipeline.store.place.atomic import read_json, remove, write_json
from pipeline.store.place.where import Place

FILE = "until.json"

STABLE, MOST = "stable", "max_prompts"  # why no prompts are added

# By task: shards, prompts, overlap (by method), why (None while undecided).
Limits = dict[str, dict[str, Any]]


def read_limits(path: Place) -> tuple[dict[str, Any], Limits]:
    """What was asked for, and what is known of each task; nothing of a run without a limit.

    RunDirectoryError for a file that is torn.
    """
    try:
        found = read_json(path / FILE)
        asked = {"stability": float(found["until"]["stability"]), **found["until"]}
        return asked, {str(task): _checked(one) for task, one in found["tasks"].items()}
    except FileNotFoundError:
        return {}, {}
    except StorageError:
        raise
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        raise RunDirectoryError(
            f"{path / FILE}: torn or of something else; circuits resume {path} writes it anew"
        ) from None


def _checked(one: Mapping[str, Any]) -> dict[str, Any]:
    shards, prompts, why = one["shards"], one["prompts"], one["why"]
    overlap = {str(id_): None if value is None else float(value) for id_, value in one["overlap"].items()}
    if not (
        isinstance(shards, int) and isinstance(prompts, int) and shards > 0 and why in (None, STABLE, MOST)
    ):
        raise TypeError("no limit")
    return {"shards": shards, "prompts": prompts, "overlap": overlap, "why": why}


def write_limits(path: Place, asked: Mapping[str, Any], tasks: Limits) -> None:
    """Writes the file; without tasks there is none."""
    if tasks:
        write_json(path / FILE, {"until": dict(asked), "tasks": tasks})
    else:
        remove(path / FILE)


def in_words(one: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """What is known of a task, and why no prompts are added to it."""
    least = min((value for value in one["overlap"].values() if value is not None), default=None)
    seen = "no overlap is known" if least is None else f"circuits of resampled prompts overlap by {least:.2f}"
    asked_for = f"{asked['stability']:g} is asked for"
    if one["why"] == STABLE:
        return f"{one['prompts']:,} prompts are enough: {seen}, {asked_for}"
    if one["why"] == MOST:
        return f"stopped at {one['prompts']:,} prompts, the most there may be: {seen}, {asked_for}"
    return f"goes on with {one['prompts']:,} prompts: {seen} so far, {asked_for}"
