"""Many shards of one task and method in one file, and single shards read back from it.

Knows row groups and the footers of items. Does not know what an item means, nor when a run is compacted.

`pack-00000.parquet` lies where its shards would lie and holds a certain number of them, each in row groups of its own,
in order; its footer holds the footer that each had as a file. Which pack a shard is in follows from its number alone,
so that nobody has to look around. A shard that also has a file of its own is read from that.
"""

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Any

import pyarrow as pa

from pipeline.core.documents import parse_json
from pipeline.core.items import digest
from pipeline.store.place.atomic import set_aside
from pipeline.store.place.where import Place
from pipeline.store.run.files import (
    DamagedFileError,
    Footer,
    read_metadata,
    read_part,
    write_parquet,
    write_parts,
)

PATTERN = "pack-*.parquet"
_PACK_BYTES = 1 << 29  # about what a pack holds at most, uncompressed
_ROW_BYTES = 9  # that differ between the rows of a shard: score, deviation, kept
_FEWEST_SHARDS = 16  # in a pack, however large they are
_MOST_SHARDS = 1024  # their footers are read together
_LOOK_AGAIN = 0.2  # seconds

_OF_A_FILE = ("rows", "columns", "values")  # facts that are written anew with every file

Part = tuple[int, pa.Table, Footer]  # shard, rows, facts


@dataclass(frozen=True)
class Pack:
    """A pack's footer: for every shard its facts and its row groups."""

    path: Place
    metadata: Any
    shards: Mapping[int, Footer]
    groups: Mapping[int, tuple[int, ...]]

    def table(self, shard: int, schema: pa.Schema) -> pa.Table:
        """A shard's rows, compared with their checksums. Raises DamagedFileError, FileNotFoundError."""
        return read_part(
            self.path, self.metadata, self.groups[shard], self.shards[shard].get("values"), schema
        )


class Packs:
    """The packs of a run whose shards have so many rows. What was read of a pack is kept while it stays as it is."""

    def __init__(self, rows: int) -> None:
        self.size = max(_FEWEST_SHARDS, min(_MOST_SHARDS, _PACK_BYTES // (_ROW_BYTES * max(1, rows))))
        self._known: dict[Place, tuple[float, int, Pack | None]] = {}  # when looked at, its time, what it is
        self._lock = Lock()

    def path_of(self, shard_file: Place, shard: int) -> Place:
        """Where the pack of a shard lies, whether it is there or not."""
        return shard_file.parent / f"pack-{shard // self.size:05d}.parquet"

    def find(self, path: Place, schema: pa.Schema) -> Pack:
        """The pack at a path. Raises DamagedFileError, FileNotFoundError."""
        with self._lock:
            looked, changed, pack = self._known.get(path, (float("-inf"), 0, None))
            if pack is None or time.monotonic() - looked > _LOOK_AGAIN:
                try:
                    now = path.stat().st_mtime_ns
                except FileNotFoundError:
                    pack, now = None, 0
                else:
                    pack = pack if pack is not None and now == changed else _open(path, schema)
                self._known[path] = (time.monotonic(), now, pack)
        if pack is None:
            raise FileNotFoundError(f"{path}: no such file")
        return pack

    def unpack(self, path: Place, schema: pa.Schema, without: int) -> None:
        """Gives every good shard but one a file of its own again, and sets the pack aside. Killed on the way, it
        leaves shards that lie in both."""
        try:
            pack = self.find(path, schema)
        except FileNotFoundError:
            return
        except DamagedFileError:
            set_aside(path)
            return
        for shard, facts in pack.shards.items():
            own = path.parent / f"shard-{shard:05d}.parquet"
            if shard == without or own.exists():
                continue
            try:
                table = pack.table(shard, schema)
            except (DamagedFileError, FileNotFoundError):
                continue
            write_parquet(own, table, {key: value for key, value in facts.items() if key not in _OF_A_FILE})
        set_aside(path)
        self.forget()

    def forget(self) -> None:
        """Looks at every pack anew."""
        with self._lock:
            self._known.clear()


def write_pack(path: Place, columns: pa.Schema, parts: Iterable[Part], facts: Mapping[str, Any]) -> None:
    """Writes shards, which come one by one and in order, as one pack. Raises OSError."""
    shards: dict[str, Footer] = {}

    def tables() -> Iterable[pa.Table]:
        for shard, table, footer in parts:
            shards[str(shard)] = footer
            yield table.select(columns.names).unify_dictionaries().cast(columns)

    def footer() -> dict[str, Any]:
        values = digest([one["values"] for one in shards.values()])
        return {**facts, "shards": json.dumps(shards), "values": values}

    write_parts(path, columns, tables(), partial(footer))


def _open(path: Place, schema: pa.Schema) -> Pack:
    footer, metadata = read_metadata(path, schema)
    try:
        shards = {int(shard): dict(facts) for shard, facts in parse_json(footer["shards"]).items()}
        rows = {shard: int(facts["rows"]) for shard, facts in shards.items()}
        known = all(isinstance(fact, str) for facts in shards.values() for fact in facts.values())
        if not known or not all(0 <= shard < 2**31 for shard in shards):
            raise ValueError("no facts of shards")  # noqa: TRY301
    except (KeyError, ValueError, TypeError, AttributeError):
        raise DamagedFileError("it does not say which shards it holds") from None
    groups, at = {}, 0
    for shard, count in rows.items():
        first, left = at, count
        while left > 0 and at < metadata.num_row_groups:
            left -= metadata.row_group(at).num_rows
            at += 1
        if left:
            raise DamagedFileError(f"its row groups are not those of shard {shard}")
        groups[shard] = tuple(range(first, at))
    return Pack(path, metadata, shards, groups)
