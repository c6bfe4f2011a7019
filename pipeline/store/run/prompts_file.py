"""`prompts.parquet`: written at once where it is small, in parts where it is not, and read back by task and shard.

Knows the file. Does not know tokenizers, nor what the columns mean (`pipeline.store.run.tables`).

Up to `WHOLE` prompts the file is one table with one digest. Beyond, every row group is a part of one task with a digest
of its own: neither who writes it nor who reads a shard of it holds more than one of them.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import pyarrow as pa

from pipeline.core.documents import parse_json
from pipeline.core.items import digest
from pipeline.core.prompts import TokenPair
from pipeline.store.place.where import Place
from pipeline.store.run import schema
from pipeline.store.run.content import table_digest
from pipeline.store.run.files import (
    DamagedFileError,
    Footer,
    read_metadata,
    read_part,
    write_parquet,
    write_parts,
)
from pipeline.store.run.tables import joined, prompts_table

WHOLE = 1 << 16
PART = 1 << 15

Part = tuple[str, int, int, str]  # task, first and last shard, digest of the values


@runtime_checkable
class PromptTables(Protocol):
    """The prompts of one task, cut into shards of `per_shard`."""

    per_shard: int
    has_notes: bool
    has_targets: bool

    def __len__(self) -> int: ...

    def tables(self, size: int) -> Iterator[pa.Table]:
        """Their rows without the name of the task, `size` at a time."""
        ...


Prompts = Mapping[str, PromptTables] | Mapping[str, Sequence[Sequence[TokenPair]]]


def write_prompts(path: Place, prompts: Prompts, facts: Mapping[str, Any]) -> None:
    """Writes the prompts of every task, {task: all of them, or its shards}, atomically."""
    tables = {task: given for task, given in prompts.items() if isinstance(given, PromptTables)}
    if len(tables) < len(prompts):
        write_parquet(path, prompts_table(prompts), facts)  # type: ignore[arg-type]  # lists of shards
    elif sum(map(len, tables.values())) <= WHOLE:
        whole = joined((task, rows) for task, given in tables.items() for rows in given.tables(PART))
        write_parquet(path, whole, facts)
    else:
        _write_parts(path, tables, facts)


def _write_parts(path: Place, tables: Mapping[str, PromptTables], facts: Mapping[str, Any]) -> None:
    there = {
        "notes": any(given.has_notes for given in tables.values()),
        "targets": any(given.has_targets for given in tables.values()),
    }
    columns = schema.PROMPTS
    for name in schema.PROMPT_EXTRAS:
        if not there[name]:
            columns = columns.remove(columns.get_field_index(name))
    parts: list[Part] = []

    def each() -> Iterator[pa.Table]:
        for task, given in tables.items():
            shards = max(1, PART // given.per_shard)
            for rows in given.tables(min(PART, shards * given.per_shard)):
                table = joined([(task, rows)], columns.names)
                shard = rows["shard"]
                parts.append((task, shard[0].as_py(), shard[-1].as_py(), table_digest(table)))
                yield table

    def footer() -> dict[str, Any]:
        return {**facts, "parts": json.dumps(parts), "values": digest([part[-1] for part in parts])}

    write_parts(path, columns, each(), footer)


def parts_of(footer: Footer) -> list[Part] | None:
    """The parts of a file, None for one that is whole. Raises DamagedFileError."""
    if "parts" not in footer:
        return None
    try:
        parts = [
            (str(task), int(first), int(last), str(one))
            for task, first, last, one in parse_json(footer["parts"])
        ]
    except (TypeError, ValueError):
        raise DamagedFileError("its parts are not said") from None
    if digest([part[-1] for part in parts]) != footer.get("values"):
        raise DamagedFileError("its parts are not those that were written")
    return parts


def read_prompts(path: Place, task: str | None = None, shard: int | None = None) -> Iterator[pa.Table]:
    """The parts of the file that may hold prompts of a task, or of one of its shards; checked as `read_parquet` does.

    Raises DamagedFileError, FileNotFoundError.
    """
    footer, metadata = read_metadata(path, schema.PROMPTS)
    parts = parts_of(footer)
    if parts is None:
        yield read_part(path, metadata, range(metadata.num_row_groups), footer.get("values"), schema.PROMPTS)
        return
    if len(parts) != metadata.num_row_groups:
        raise DamagedFileError("its parts are not those that were written")
    for number, (of, first, last, values) in enumerate(parts):
        if task in (None, of) and (shard is None or first <= shard <= last):
            yield read_part(path, metadata, [number], values, schema.PROMPTS)
