"""Parquet and safetensors files with a footer of facts, written so that damage shows, and checked.

Knows formats, checksums and the `circuits.` keys. Does not know what the columns mean or where files lie.

Pages of Parquet carry checksums; a hash of the values covers what they leave out, and a digest among the
footer's facts covers these. A tensor file has the same hash and digest in its header. Both carry a seal over all their
bytes, which `check_seal` compares. Parquet has no statistics of columns: a reader that filters would believe them
without looking at the values, whatever has become of them.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from pipeline.core.errors import StorageError
from pipeline.core.file_sizes import too_much
from pipeline.core.items import digest
from pipeline.store.place.atomic import write_atomic
from pipeline.store.place.seal import UNSEALED, is_mark, is_whole_file, seal_file, sealed
from pipeline.store.place.where import Place, as_file, open_input
from pipeline.store.run.content import arrays_digest, table_digest
from pipeline.store.run.schema import mismatch

PREFIX = "circuits."
ROW_GROUP = 1 << 20

Footer = dict[str, str]


class DamagedFileError(Exception):
    """A file is torn, flipped, or not what its footer says; the message is the reason alone."""


def write_parquet(
    path: Place, table: pa.Table, footer: Mapping[str, Any], *, row_group: int = ROW_GROUP
) -> None:
    """Writes a table atomically; `footer` keys come without their prefix. Equal input, equal bytes."""
    facts = {**footer, "values": table_digest(table)}
    write_parts(path, table.schema, [table], lambda: facts, row_group=row_group)


def write_parts(
    path: Place,
    columns: pa.Schema,
    tables: Iterable[pa.Table],
    footer: Callable[[], Mapping[str, Any]],
    *,
    row_group: int = ROW_GROUP,
) -> None:
    """Writes tables one after the other into one file, atomically, each in row groups of its own. `footer` is asked
    when all are written; it says what `values` is a digest of."""
    kinds = {field.name: field.type for field in columns}

    def write(target: Path) -> None:
        rows = 0
        with pq.ParquetWriter(
            target,
            columns,
            compression="zstd",
            use_dictionary=[name for name, kind in kinds.items() if pa.types.is_dictionary(kind)],
            use_byte_stream_split=[place for name, kind in kinds.items() for place in _floats_of(name, kind)],
            write_page_checksum=True,
            write_statistics=False,
            store_schema=True,
        ) as writer:
            for table in tables:
                writer.write_table(table, row_group_size=row_group)
                rows += table.num_rows
            writer.add_key_value_metadata(_seal({**footer(), "rows": rows, "columns": _columns(columns)}))
        seal_file(target)

    write_atomic(path, write)


def read_footer(path: Place, schema: pa.Schema | None = None) -> Footer:
    """The facts of a Parquet footer; reads no page. Raises DamagedFileError, FileNotFoundError."""
    return read_metadata(path, schema)[0]


def read_metadata(path: Place, schema: pa.Schema | None = None) -> tuple[Footer, Any]:
    """The facts of a Parquet footer, and pyarrow's own. Raises DamagedFileError, FileNotFoundError."""
    try:
        with open_input(path) as file:
            metadata, size = pq.read_metadata(file), file.size()
        found = metadata.schema.to_arrow_schema()
    except (FileNotFoundError, StorageError):
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DamagedFileError(_reason(error)) from None
    footer = _unseal({_text(key): _text(value) for key, value in (metadata.metadata or {}).items()})
    _refuse_bomb(metadata, found, size)
    if footer.get("rows") != str(metadata.num_rows):
        raise DamagedFileError(f"{metadata.num_rows} rows where {footer.get('rows')} were written")
    if footer.get("columns") != _columns(found):
        raise DamagedFileError("its columns are not those that were written")
    if len(set(found.names)) < len(found.names):
        raise DamagedFileError("two of its columns have one name")
    if schema is not None and (problem := mismatch(found, schema)):
        raise DamagedFileError(problem)
    return footer, metadata


def read_parquet(path: Place, schema: pa.Schema | None = None) -> pa.Table:
    """The table, pages and values compared with their checksums. Raises DamagedFileError, FileNotFoundError.

    With a schema, every column of it is there, those of an earlier version that it lacks as nulls, and no required
    value is null.

    Opened as a single file: a name such as `task=ioi/x.parquet` adds no partition columns.
    """
    return read_whole(path, schema)[0]


def read_whole(path: Place, schema: pa.Schema | None = None) -> tuple[pa.Table, Footer]:
    """The table as `read_parquet` gives it, and the facts of its footer."""
    footer, metadata = read_metadata(path, schema)
    table = read_part(path, metadata, range(metadata.num_row_groups), footer.get("values"), schema)
    return table, footer


def read_part(
    path: Place, metadata: Any, row_groups: Sequence[int], values: str | None, schema: pa.Schema | None = None
) -> pa.Table:
    """The table in these row groups, compared with the digest of its values; as `read_parquet` otherwise."""
    try:
        with (
            open_input(path) as file,
            pq.ParquetFile(file, metadata=metadata, page_checksum_verification=True) as parquet,
        ):
            table = parquet.read_row_groups(list(row_groups)).replace_schema_metadata(None)
        table.validate(full=True)
    except (FileNotFoundError, StorageError):
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DamagedFileError(_reason(error)) from None
    if table_digest(table) != values:
        raise DamagedFileError("the values are not those that were written")
    for field in schema or ():
        if field.name not in table.column_names:
            table = table.append_column(field, pa.nulls(len(table), field.type))
        elif table[field.name].null_count and not field.nullable:
            raise DamagedFileError(f"nothing stands in some rows of the column {field.name}")
    return table


def _refuse_bomb(metadata: Any, found: pa.Schema, size: int) -> None:
    """DamagedFileError for a file that claims far more rows or bytes than one of its size holds.

    Rows of every prompt's scores are as wide as the graph, and may well be zeros: their reader knows how many there
    are. (Single columns are not asked for their sizes: in a damaged footer that ends the process.)
    """
    claims = {"rows": metadata.num_rows}
    if not any(pa.types.is_fixed_size_list(kind) for kind in found.types):
        claims["bytes"] = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
    if problem := too_much(claims, size):
        raise DamagedFileError(problem)


def write_tensors(path: Place, tensors: Mapping[str, np.ndarray], footer: Mapping[str, Any]) -> None:
    """Writes named arrays atomically as safetensors, with the facts in its header."""
    arrays = {name: np.ascontiguousarray(array) for name, array in sorted(tensors.items())}
    content = save(arrays, _seal({**footer, "values": arrays_digest(arrays)}))
    write_atomic(path, sealed(_in_order(content)))


def _in_order(content: bytes) -> bytes:
    """A safetensors file with the entries of its header sorted: its writer puts them in another order every time."""
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    facts = header["__metadata__"]
    header["__metadata__"] = {
        key: facts[key] for key in sorted(facts, key=lambda key: (facts[key] == UNSEALED, key))
    }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    return content[:8] + text.ljust(size) + content[8 + size :]


def check_seal(path: Place) -> None:
    """DamagedFileError when any bit of a file is not what was written; nothing for one that an earlier version wrote,
    without a seal. Raises FileNotFoundError.

    Where statistics of columns lie in such a file, they are compared with its values.
    """
    with as_file(path) as here:
        if path.suffix == ".safetensors":
            read_tensor_footer(here)
            with safe_open(here, framework="numpy") as file:
                has_seal = PREFIX + "seal" in file.metadata()
        else:
            has_seal = (PREFIX + "seal").encode() in read_metadata(here)[1].metadata
        if has_seal and not is_whole_file(here):
            raise DamagedFileError("a bit in it is not what was written")
        if not has_seal and path.suffix == ".parquet":
            _check_statistics(here)


def _check_statistics(path: Place) -> None:
    """DamagedFileError when what the footer says of a column's least and largest value is not so."""
    with open_input(path) as file, pq.ParquetFile(file) as parquet:
        for group in range(parquet.metadata.num_row_groups):
            columns = [
                parquet.metadata.row_group(group).column(i) for i in range(parquet.metadata.num_columns)
            ]
            flat = [one for one in columns if "." not in one.path_in_schema]
            table = parquet.read_row_group(group, columns=[one.path_in_schema for one in flat])
            for one in flat:
                if one.statistics is not None and not _agree(one.statistics, table[one.path_in_schema]):
                    raise DamagedFileError(
                        f"its statistics of {one.path_in_schema} are not those of its values"
                    )


def _agree(statistics: Any, column: pa.ChunkedArray) -> bool:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if statistics.has_null_count and statistics.null_count != column.null_count:
        return False
    if not statistics.has_min_max:
        return True
    return {"min": statistics.min, "max": statistics.max} == pc.min_max(column).as_py()


def read_tensor_footer(path: Place) -> Footer:
    """The facts in a safetensors header. Raises DamagedFileError, FileNotFoundError."""
    return _read_tensors(path)[1]


def read_tensors(path: Place) -> dict[str, np.ndarray]:
    """The arrays, compared with the digest in the header. Raises DamagedFileError, FileNotFoundError."""
    tensors, footer = _read_tensors(path, load=True)
    if arrays_digest(tensors) != footer.get("values"):
        raise DamagedFileError("the tensors are not those that were written")
    return tensors


def _read_tensors(path: Place, *, load: bool = False) -> tuple[dict[str, np.ndarray], Footer]:
    try:
        with as_file(path) as here, safe_open(here, framework="numpy") as file:
            footer = _unseal(file.metadata() or {})
            return {name: file.get_tensor(name) for name in sorted(file.keys())} if load else {}, footer
    except (FileNotFoundError, StorageError):
        raise
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise DamagedFileError(_reason(error)) from None


def _floats_of(name: str, kind: pa.DataType) -> list[str]:
    """Where in a file the floats of a column lie: under its name, or inside of its lists."""
    if pa.types.is_fixed_size_list(kind) and pa.types.is_floating(kind.value_type):
        return [f"{name}.list.element"]
    return [name] if pa.types.is_floating(kind) else []


def _seal(footer: Mapping[str, Any]) -> Footer:
    """Facts as text under their prefix, with a digest over them, and last the mark of a file that is to be sealed."""
    facts = {
        key: value if isinstance(value, str) else json.dumps(value, default=_plain)
        for key, value in footer.items()
    }
    facts["digest"] = digest({**facts, "seal": UNSEALED})
    return {PREFIX + key: value for key, value in [*sorted(facts.items()), ("seal", UNSEALED)]}


def _plain(value: Any) -> Any:
    """Numpy's scalars and arrays as plain numbers and lists; TypeError for what JSON does not know."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"a footer cannot hold {type(value).__name__}")


def _unseal(metadata: Mapping[str, str]) -> Footer:
    facts = {
        key.removeprefix(PREFIX): value for key, value in sorted(metadata.items()) if key.startswith(PREFIX)
    }
    known = facts.pop("digest", None)
    seal = facts.pop("seal", None)  # earlier versions wrote none; the digest tells which it was
    if (seal is not None and not is_mark(seal)) or known != digest(
        {**facts, **({"seal": UNSEALED} if seal else {})}
    ):
        raise DamagedFileError("the facts in its footer are not those that were written")
    return facts


def _columns(schema: pa.Schema) -> str:
    """Names and types as text, for a fact that a flipped bit cannot change unseen."""
    return ", ".join(f"{field.name} {field.type}{'' if field.nullable else ' required'}" for field in schema)


def _text(value: bytes) -> str:
    return value.decode("utf-8", errors="replace")


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:160]
