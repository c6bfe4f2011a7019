"""Few large files in place of many small ones, without changing any result.

Knows when a run may be compacted and in which order files come and go. Does not know the inside of a pack
(`pipeline.store.run.packs`).

First the pack, whole and read back; only then do the shards' own files go. Killed at any moment, every shard lies in
its own file, in the pack, or in both, and the same command goes on. Every prompt's scores are large already and stay.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from pipeline.core.errors import RunDirectoryError
from pipeline.core.items import Item
from pipeline.store.place.atomic import remove
from pipeline.store.place.where import Place
from pipeline.store.run.files import DamagedFileError, Footer
from pipeline.store.run.packs import Part, write_pack
from pipeline.store.run.run_dir import RunDirectory


@dataclass(frozen=True)
class Compacted:
    """How many files went into how many packs."""

    run: str
    files: int
    packs: int


def compact(address: str | Place) -> Compacted:
    """Merges the shards of every task and method of a complete run. RunDirectoryError for a run that is not complete,
    that somebody works on, or in which something is damaged; it stays as it is, or partly compacted and whole."""
    run = RunDirectory.open(address)
    with run.lock():
        done = len(run.done(rename=False))
        if done < len(run.items) or not run.is_marked_complete:
            raise RunDirectoryError(
                f"{run.path}: not complete ({done} of {len(run.items)} items are there), and only a complete run is "
                f"compacted; first: circuits resume {run.path}"
            )
        merged = [n for items in _blocks(run) if (n := _merge(run, items))]
    return Compacted(str(run.path), sum(merged), len(merged))


def _blocks(run: RunDirectory) -> Iterator[list[Item]]:
    """The items that make one pack, by shard."""
    blocks: dict[Place, list[Item]] = {}
    for item in run.items:
        if item.kind != "statistics":
            blocks.setdefault(run.packs.path_of(run.path / item.path, item.shard), []).append(item)
    for items in blocks.values():
        yield sorted(items, key=lambda item: item.shard)


def _merge(run: RunDirectory, items: Sequence[Item]) -> int:
    """Makes these items one pack; returns how many files went."""
    loose = [item for item in items if (run.path / item.path).exists()]
    if len(items) < 2 or not loose:
        return 0
    path = run.packs.path_of(run.path / items[0].path, items[0].shard)
    columns = run.schema(items[0])
    footers = {item.shard: run.check(item, kept={}) for item in items}
    facts = {key: value for key, value in run.facts(items[0]).items() if key != "item_key"}

    def parts() -> Iterator[Part]:
        for item in items:
            yield item.shard, run.table(item), footers[item.shard]

    try:
        write_pack(path, columns, parts(), facts)
        _read_back(run, path, footers, columns)
    except DamagedFileError as error:
        raise RunDirectoryError(
            f"{path}: not made, for a file is damaged ({error}); circuits verify {run.path} says which"
        ) from None
    for item in loose:
        remove(run.path / item.path)
    return len(loose)


def _read_back(run: RunDirectory, path: Place, footers: Mapping[int, Footer], columns: pa.Schema) -> None:
    """DamagedFileError unless the pack holds every shard as it was."""
    run.packs.forget()
    pack = run.packs.find(path, columns)
    if pack.shards != footers:
        raise DamagedFileError("its facts are not those that were written")
    for shard in footers:
        pack.table(shard, columns)
