"""The decisions of a search over all prompts of a task: one small file per receiver, written as soon as it is decided.

Knows folders, names and checksums. Does not know what was decided: plain data comes in.

A file is there whole or not at all, and never changes. One that is damaged, or that belongs to another search, is
as good as missing: the search decides that receiver again.
"""

from typing import Any

from pipeline.core.errors import StorageError
from pipeline.core.items import digest
from pipeline.store.atomic import read_json, write_json
from pipeline.store.place import Place, each, found

FOLDER = "decisions"


def folder_of(run: Place, task: str, search: str) -> Place:
    """Where the decisions of a search lie; `search` is the digest of all that they depend on."""
    return run / FOLDER / f"task={task}" / f"search={search[:12]}"


def write(folder: Place, search: str, receiver: int, step: dict[str, Any]) -> Place:
    """Writes what was decided about a receiver, durably. Raises OSError."""
    record = {"search": search, "receiver": receiver, "sha256": digest(step), "step": step}
    path = folder / f"receiver-{receiver:06d}.json"
    write_json(path, record, indent=None)
    return path


def read(folder: Place, search: str) -> dict[int, dict[str, Any]]:
    """What was decided, by receiver, as far as it is whole and of this search."""
    records = [
        record for record in each(folder, read_one, found(folder, "receiver-*.json")) if record is not None
    ]
    return {record["receiver"]: record["step"] for record in records if record["search"] == search}


def read_one(path: Place) -> dict[str, Any] | None:
    """`search`, `receiver` and `step` of a file, or None where it is damaged."""
    try:
        record = read_json(path)
        whole = record["sha256"] == digest(record["step"]) and isinstance(record["search"], str)
        return {**record, "receiver": int(record["receiver"])} if whole else None
    except StorageError:
        raise
    except (OSError, ValueError, KeyError, TypeError):
        return None
