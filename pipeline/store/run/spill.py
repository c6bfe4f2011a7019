"""Rows that may be more than memory holds, put aside in order and read back by number.

Knows tables of Arrow. Does not know what is in them, nor how they get into a run.

The first are kept in memory; from `IN_MEMORY` on all of them lie in a file without a name, which goes with the object.
"""

import tempfile
import weakref
from bisect import bisect_right
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

IN_MEMORY = 1 << 24  # bytes


class Spill:
    """Tables of one schema; `add` them, `finish`, then read."""

    def __init__(self, columns: pa.Schema, in_memory: int = IN_MEMORY) -> None:
        self._columns, self._in_memory = columns, in_memory
        self._batches: list[pa.RecordBatch] = []
        self._bytes = 0
        self._starts = [0]  # the number of the first row of every batch, and of the one after the last
        self._file: Any = None
        self._writer: Any = None
        self._reader: Any = None

    def __len__(self) -> int:
        """How many rows there are."""
        return self._starts[-1]

    def add(self, table: pa.Table) -> None:
        """Puts rows aside after those that are there. Raises OSError where the disk is full."""
        for batch in table.combine_chunks().to_batches():
            self._starts.append(self._starts[-1] + len(batch))
            if self._writer is None:
                self._batches.append(batch)
                self._bytes += batch.nbytes
                if self._bytes > self._in_memory:
                    self._move()
            else:
                self._writer.write_batch(batch)

    def _move(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="circuits-")  # noqa: SIM115 - closed with this object
        weakref.finalize(self, self._file.close)
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        self._writer = pa.ipc.new_file(self._file, self._columns, options=options)
        for batch in self._batches:
            self._writer.write_batch(batch)
        self._batches = []

    def finish(self) -> None:
        """Ends the adding."""
        if self._writer is not None:
            self._writer.close()
            self._file.seek(0)
            self._reader = pa.ipc.open_file(self._file)

    def rows(self, start: int, stop: int) -> pa.Table:
        """The rows from `start` up to `stop`, in order."""
        batches, first = [], bisect_right(self._starts, start) - 1
        for number in range(max(0, first), len(self._starts) - 1):
            begin = self._starts[number]
            if begin >= stop:
                break
            batch = self._batch(number)
            batches.append(batch.slice(max(0, start - begin), stop - max(start, begin)))
        return pa.Table.from_batches(batches, self._columns)

    def tables(self, size: int) -> Iterator[pa.Table]:
        """All rows, `size` at a time."""
        for start in range(0, len(self), size):
            yield self.rows(start, min(start + size, len(self)))

    def _batch(self, number: int) -> pa.RecordBatch:
        return self._batches[number] if self._reader is None else self._reader.get_batch(number)
