"""The records of failed attempts, one JSON file each.

Knows where they lie and how they are read. Does not know what a failure means for a run.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.core.errors import StorageError
from pipeline.core.items import Item
from pipeline.store.place.atomic import read_json, remove_tree, write_json
from pipeline.store.place.where import Place, each, found, relative

PATTERN = "task=*/*=*/shard-*/attempt-*.json"


def record(run: Place, item: Item, attempt: int, info: Mapping[str, Any]) -> Place:
    """Writes the record of a failed attempt: `info` (traceback, host, device, next step ...) as JSON."""
    path = run / item.failure_folder / f"attempt-{attempt}.json"
    facts = {**item.to_dict(), "name": item.name, "attempt": attempt, **info}
    write_json(path, json.loads(json.dumps(facts, default=str)))
    return path


def read(run: Place) -> list[dict[str, Any]]:
    """Every record, with its item's fields, name and attempt, by item and attempt; a torn one says so."""
    paths = found(run / "failures", PATTERN)
    records = [
        record or {"name": str(relative(path, run)), "attempt": 0, "error": "unreadable record"}
        for path, record in zip(paths, each(run, read_one, paths), strict=True)
    ]
    return sorted(records, key=lambda one: (one["name"], one["attempt"]))


def read_one(path: Place) -> dict[str, Any] | None:
    """One record, or None where it is none."""
    try:
        return _checked(read_json(path))
    except StorageError:
        raise
    except (OSError, ValueError):
        return None


def _checked(record: Any) -> dict[str, Any]:
    """The record with the name of its item; ValueError for what nobody here has written."""
    if not isinstance(record, dict):
        raise ValueError("no object")  # noqa: TRY004 - of the file, not of an argument
    words = ("failure", "error", "message", "next_step")
    if not all(isinstance(record.get(key, ""), str) for key in words):
        raise ValueError("not text where there should be")
    attempt = record.get("attempt")
    if type(attempt) is not int or not isinstance(record.get("final", False), bool):
        raise ValueError("no attempt")
    return {**record, "name": Item.from_dict(record).name}


def clear(run: Place, items: Iterable[Item] | None = None) -> None:
    """Removes the records of these items, or of all."""
    folders = ["failures"] if items is None else [item.failure_folder for item in items]
    for folder in folders:
        remove_tree(run / folder)
