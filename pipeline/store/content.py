"""What a table or a set of arrays holds, as one hash: the same for equal values, however they are laid out.

Knows columns and values. Does not know files. Page checksums of Parquet leave out the headers of the pages,
which say how to decode them; this hash is over what came out.
"""

import hashlib
from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from pipeline.core.items import canonical_json


def table_digest(table: pa.Table) -> str:
    """sha256 over names, types, nulls and values of all columns, in order."""
    total = hashlib.sha256()
    for name, column in zip(table.column_names, table.columns, strict=True):
        array = column.combine_chunks()
        total.update(f"{name} {array.type} {len(array)}\n".encode())
        total.update(np.packbits(array.is_null().to_numpy(zero_copy_only=False)).tobytes())
        if pa.types.is_dictionary(array.type):
            _add_names(total, array)
        elif pa.types.is_primitive(array.type):
            if array.null_count:  # what lies under a null is anything
                array = array.fill_null(pa.scalar(0).cast(array.type))
            total.update(array.to_numpy(zero_copy_only=False).tobytes())
        else:  # text and lists, which only small tables have
            total.update(canonical_json(array.to_pylist()).encode())
    return total.hexdigest()


def _add_names(total: "hashlib._Hash", array: pa.DictionaryArray) -> None:
    """The names that occur, sorted, and for each row which of them, however the dictionary was built."""
    names = array.dictionary.to_pylist()
    codes = array.indices.fill_null(len(names)).to_numpy(zero_copy_only=False)
    used = np.flatnonzero(np.bincount(codes, minlength=len(names) + 1)[: len(names)])
    order = sorted(used.tolist(), key=lambda code: names[code])
    rank = np.full(len(names) + 1, -1, dtype=np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    total.update(canonical_json([names[code] for code in order]).encode())
    total.update(rank[codes].tobytes())


def arrays_digest(arrays: Mapping[str, np.ndarray]) -> str:
    """sha256 over names, types, shapes and values of all arrays, by name."""
    total = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        total.update(f"{name} {array.dtype} {array.shape}\n".encode())
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()
