"""What is done in a run and what it took, from its files alone: counts, footers, who is at work.

Knows the run directory. Does not know scores, nor how any of it is printed.
"""

from collections import Counter
from typing import TYPE_CHECKING, Any

from pipeline.core.documents import parse_json
from pipeline.core.items import EVALUATIONS
from pipeline.store.place.lock import at_work
from pipeline.store.run import circuits, prompt_scores
from pipeline.store.run.files import DamagedFileError, Footer, read_footer
from pipeline.store.run.run_dir import RunDirectory

if TYPE_CHECKING:
    from pandas import DataFrame


_OF_THE_FILE = ("columns", "values", "schema_version")  # facts by which damage is found


def status_of(directory: RunDirectory) -> dict[str, Any]:
    """What is done, from the files alone: counts, a row per task and method, who is at work.

    Reads footers and renames nothing; a damaged file counts as missing.
    """
    done = directory.done(rename=False)
    records = directory.failures()
    failed = Counter(record["name"] for record in records)
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for item in directory.items:
        key = (item.task, item.method or item.kind)
        row = rows.setdefault(
            key, {"task": key[0], "method": key[1], "items": 0, "done": 0, "failed": 0, "missing": []}
        )
        row["items"] += 1
        if item in done:
            row["done"] += 1
        else:
            row["failed"] += item.name in failed
            row["missing"].append(item.name)
    return {
        "run": directory.path.name,
        "path": str(directory.path),
        "run_key": directory.manifest["run_key"],
        "items": len(directory.items),
        "done": len(done),
        "failed": sum(row["failed"] for row in rows.values()),
        "missing": len(directory.items) - len(done),
        "not_evaluated": not_evaluated(directory, records),
        "complete": directory.is_marked_complete and len(done) == len(directory.items),
        "running": running(directory),
        "prompt_scores": _prompt_score_files(directory),
        "rows": list(rows.values()),
    }


def not_evaluated(directory: RunDirectory, records: list[dict[str, Any]]) -> list[str]:
    """The evaluations of shards that have failed, as their records say, and are still missing, by name."""
    names = {record["name"] for record in records if record.get("kind") == EVALUATIONS}
    try:
        lacks = (
            parse_json(read_footer(directory.path / circuits.FILE).get("incomplete", "[]")) if names else []
        )
    except (FileNotFoundError, DamagedFileError, ValueError):
        lacks = list(names)  # killed before the table that says it was written
    return sorted(names.intersection(map(str, lacks if isinstance(lacks, list) else [])))


def _prompt_score_files(directory: RunDirectory) -> dict[str, Any]:
    """Whose scores are to be kept prompt by prompt, and the files and bytes that are there."""
    there = (directory.path / prompt_scores.FOLDER).is_dir()
    found = [
        directory.path / prompt_scores.path_of(item) for item in directory.items if there and item.method
    ]
    sizes = [path.stat().st_size for path in found if path.exists()]
    return {"methods": list(directory.prompt_scores), "files": len(sizes), "bytes": sum(sizes)}


def running(directory: RunDirectory) -> str | None:
    """`process 123 on host` when a live process owns the directory."""
    owner = at_work(directory.path)
    return None if owner is None else f"process {owner.pid} on {owner.host}"


def footers_of(directory: RunDirectory) -> "DataFrame":
    """A row per finished item with the facts of its footer: attempt, device, seconds, passes ..."""
    import pandas as pd

    rows = []
    for item in directory.items:
        try:
            footer = directory.check(item)
        except (FileNotFoundError, DamagedFileError):
            continue
        facts = _numbers({key: footer[key] for key in footer if key not in _OF_THE_FILE})
        facts["parameters"] = facts.pop("method", None)
        rows.append({"item": item.name, **item.to_dict(), **facts, "task": item.task})
    return pd.DataFrame(rows)


def _numbers(footer: Footer) -> dict[str, Any]:
    """Facts with numbers as numbers; the rest stays text."""
    facts: dict[str, Any] = {}
    for key, value in footer.items():
        try:
            number = parse_json(value)
        except ValueError:
            number = None
        is_number = isinstance(number, int | float) and not isinstance(number, bool)
        facts[key] = number if is_number and not key.endswith(("key", "revision", "fingerprint")) else value
    return facts
