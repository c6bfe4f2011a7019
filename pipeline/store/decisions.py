"""The decisions of a search over all prompts of a task: one small file per receiver, written as soon as it is decided.

Knows folders, names and checksums. Does not know what was decided: plain data comes in.

A file is there whole or not at all, and never changes. One that is damaged, or that belongs to another search, is
as good as missing: the search decides that receiver again.
"""

import json
from typing import Any

from pipeline.core.errors import StorageError
from pipeline.core.items import digest
from pipeline.store.atomic import read_json, write_atomic
from pipeline.store.place import Place, each, found


def folder_of(run: Place, task: str, search: str) -> Place:
    """Where the decisions of a search lie; `search` is the digest of all that they depend on."""
    return run / "decisions" / f"task={task}" / f"search={search[:12]}"


def write(folder: Place, search: str, receiver: int, step: dict[str, Any]) -> Place:
    """Writes what was decided about a receiver, durably. Raises OSError."""
    record = {"search": search, "receiver": receiver, "sha256": digest(step), "step": step}
    path = folder / f"receiver-{receiver:06d}.json"
    write_atomic(path, json.dumps(record, allow_nan=False) + "\n")
    return path


def read(folder: Place, search: str) -> dict[int, dict[str, Any]]:
    """What was decided, by receiver, as far as it is whole and of this search."""
    records = each(folder, lambda path: _read(path, search), found(folder, "receiver-*.json"))
    return dict(record for record in records if record is not None)


def _read(path: Place, search: str) -> tuple[int, dict[str, Any]] | None:
    """(receiver, what was decided), or None."""
    try:
        record = read_json(path)
        whole = record["search"] == search and record["sha256"] == digest(record["step"])
        return (int(record["receiver"]), record["step"]) if whole else None
    except StorageError:
        raise
    except (OSError, ValueError, KeyError, TypeError):
        return None
