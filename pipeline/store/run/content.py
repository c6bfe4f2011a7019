"""What a table or a set of arrays holds, as one hash: the same for equal values, however they are laid out.

Knows columns and values. Does not know files. Page checksums of Parquet leave out the headers of the pages,
which say how to decode them; this hash is over what came out. It is there to find damage, not malice: CRC-32
per column, which costs little beside reading.
"""

import hashlib
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.core.items import canonical_json, digest

_AT_ONCE = 4096  # values whose text is made together


def table_digest(table: pa.Table) -> str:
    """A hash over names, types, nulls and values of all columns, in order."""
    found = hashlib.sha256(b"[")
    for number, (name, column) in enumerate(zip(table.column_names, table.columns, strict=True)):
        array = column.combine_chunks()
        short, long = _checksums(array)
        entry = canonical_json([name, str(array.type), len(array), array.null_count, *short])
        found.update(b"," * bool(number) + entry[:-1].encode())
        if long is not None:
            _add_list(found, long)
        found.update(b"]")
    found.update(b"]")
    return found.hexdigest()


def _add_list(found: Any, array: pa.Array) -> None:
    """Adds the JSON list of an array as the next of a list, without holding all of its text."""
    found.update(b",[")
    for start in range(0, len(array), _AT_ONCE):
        text = canonical_json(array.slice(start, _AT_ONCE).to_pylist())[1:-1]
        found.update(b"," * bool(start) + text.encode())
    found.update(b"]")


def _checksums(array: pa.Array) -> tuple[list[Any], pa.Array | None]:
    """Of where the nulls are, and of the values between them; values that are hashed themselves apart."""
    if array.null_count == len(array):
        return [], None
    nulls = _crc(np.packbits(array.is_null().to_numpy(zero_copy_only=False))) if array.null_count else 0
    if pa.types.is_dictionary(array.type):
        return [nulls, *_of_names(array)], None
    if pa.types.is_primitive(array.type):
        if array.null_count:  # what lies under a null is anything
            array = array.fill_null(pa.scalar(0).cast(array.type))
        return [nulls, _crc(array.to_numpy(zero_copy_only=False))], None
    if pa.types.is_fixed_size_list(array.type) and not array.null_count:
        inner = array.flatten()
        short, long = _checksums(inner)
        return [nulls, inner.null_count, *short], long
    return [nulls], array  # text and lists


def _of_names(array: pa.DictionaryArray) -> list[Any]:
    """The names that occur, sorted, and for each row which of them, however the dictionary was built."""
    names = array.dictionary.to_pylist()
    codes = array.indices
    if array.null_count:
        codes = codes.fill_null(len(names))
    rows = codes.to_numpy(zero_copy_only=False)
    used = np.flatnonzero(np.bincount(rows, minlength=len(names) + 1)[: len(names)])
    order = sorted(used.tolist(), key=lambda code: names[code])
    rank = np.full(len(names) + 1, -1, dtype=np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    return [zlib.crc32(canonical_json([names[code] for code in order]).encode()), _crc(rank[rows])]


def arrays_digest(arrays: Mapping[str, np.ndarray]) -> str:
    """A hash over names, types, shapes and values of all arrays, by name."""
    return digest(
        [[name, str(array.dtype), list(array.shape), _crc(array)] for name, array in sorted(arrays.items())]
    )


def _crc(array: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(array).data)
