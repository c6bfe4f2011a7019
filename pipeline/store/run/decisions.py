"""The steps of a search over all prompts of a task: one small file each, written as soon as the step is taken.

Knows folders, names and checksums. Does not know what a step is: plain data comes in.

A file is there whole or not at all, and never changes. One that is damaged, or that belongs to another search, is
as good as missing: the search takes that step again.
"""

from typing import Any

from pipeline.core.errors import StorageError
from pipeline.core.items import digest
from pipeline.store.place.atomic import read_json, write_json
from pipeline.store.place.where import Place, each, found

FOLDER = "decisions"
PATTERN = "*-*.json"  # step-000012.json; an earlier version called them receiver-000012.json


def folder_of(run: Place, task: str, search: str) -> Place:
    """Where the steps of a search lie; `search` is the digest of all that they depend on."""
    return run / FOLDER / f"task={task}" / f"search={search[:12]}"


def write(folder: Place, search: str, number: int, step: dict[str, Any]) -> Place:
    """Writes a step, durably. Raises OSError."""
    record = {"search": search, "number": number, "sha256": digest(step), "step": step}
    path = folder / f"step-{number:06d}.json"
    write_json(path, record, indent=None)
    return path


def read(folder: Place, search: str) -> dict[int, dict[str, Any]]:
    """The steps that were taken, by number, as far as they are whole and of this search."""
    records = [record for record in each(folder, read_one, found(folder, PATTERN)) if record is not None]
    return {record["number"]: record["step"] for record in records if record["search"] == search}


def read_one(path: Place) -> dict[str, Any] | None:
    """`search`, `number` and `step` of a file, or None where it is damaged."""
    try:
        record = read_json(path)
        whole = record["sha256"] == digest(record["step"]) and isinstance(record["search"], str)
        number = record["number"] if "number" in record else record["receiver"]
        return {**record, "number": int(number)} if whole else None
    except StorageError:
        raise
    except (OSError, ValueError, KeyError, TypeError):
        return None
