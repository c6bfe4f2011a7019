"""The decisions of a search over all prompts of a task: one small file per receiver, written as soon as it is decided.

Knows folders, names and checksums. Does not know what was decided: plain data comes in.

A file is there whole or not at all, and never changes. One that is damaged, or that belongs to another search, is
as good as missing: the search decides that receiver again.
"""

import json
from pathlib import Path
from typing import Any

from pipeline.core.items import digest
from pipeline.store.atomic import read_json, write_atomic


def folder_of(run: Path, task: str, search: str) -> Path:
    """Where the decisions of a search lie; `search` is the digest of all that they depend on."""
    return run / "decisions" / f"task={task}" / f"search={search[:12]}"


def write(folder: Path, search: str, receiver: int, step: dict[str, Any]) -> Path:
    """Writes what was decided about a receiver, durably. Raises OSError."""
    record = {"search": search, "receiver": receiver, "sha256": digest(step), "step": step}
    path = folder / f"receiver-{receiver:06d}.json"
    write_atomic(path, json.dumps(record, allow_nan=False) + "\n")
    return path


def read(folder: Path, search: str) -> dict[int, dict[str, Any]]:
    """What was decided, by receiver, as far as it is whole and of this search."""
    steps = {}
    for path in sorted(folder.glob("receiver-*.json")):
        try:
            record = read_json(path)
            whole = record["search"] == search and record["sha256"] == digest(record["step"])
            if whole:
                steps[int(record["receiver"])] = record["step"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return steps
