"""Results to and from tables: the rows of any type of result, and whether a table holds what it claims.

Knows axes, ids and names. Does not know where files lie, footers or runs.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int

from pipeline.core.graph import Graph, Node
from pipeline.core.prompts import SPAN_NAME
from pipeline.core.results import NAMED, Result, ResultType, Rows, rows_of
from pipeline.store.place.where import Place
from pipeline.store.run import schema
from pipeline.store.run.files import DamagedFileError, Footer, read_whole

Key = tuple[Any, ...]  # of a row: its value of every axis


def table_of(result: Result, graph: Graph, shard: int) -> pa.Table:
    """A row per value of the axes, in their order; what was not measured is null."""
    rows = rows_of(result)
    type_, order = rows.type, _order(rows)
    if order is not None:
        rows = _taken(rows, order)
    arrays = [array for axis in type_.axes for array in axis_columns(axis, rows.keys[axis], graph)]
    arrays.append(nullable(rows.value, pa.float32()))
    if rows.n_prompts is not None:
        spread = np.full(len(rows), np.nan) if rows.std is None else rows.std
        arrays.append(nullable(spread, pa.float32()))
        if type_.bounded:
            arrays.append(nullable(_error_of_stored(rows), pa.float32()))
        arrays.append(pa.array(rows.n_prompts, pa.int32()))
    if type_.decides:
        arrays.append(pa.nulls(len(rows), pa.bool_()) if rows.kept is None else pa.array(rows.kept))
    arrays.append(pa.array(np.full(len(rows), shard, dtype=np.int32)))
    return pa.table(arrays, schema=schema.of_type(type_))


def _error_of_stored(rows: Rows) -> Float[np.ndarray, " row"]:
    """How far off a bounded value is at most as float32, which is how it is stored; rounded up."""
    if rows.error is None:
        return np.full(len(rows), np.nan)
    error = rows.error + np.abs(rows.value - rows.value.astype(np.float32))
    stored = error.astype(np.float32)
    return np.where(stored < error, np.nextafter(stored, np.float32(np.inf)), stored)


def axis_columns(axis: str, keys: Sequence[Any] | Int[np.ndarray, " row"], graph: Graph) -> list[pa.Array]:
    """The columns of one axis for rows with these keys."""
    if axis in NAMED:
        return [pa.array(list(keys), pa.string()).dictionary_encode()]
    kind = schema.columns_of(axis)[schema.key_of(axis)]
    ids = np.asarray(keys, dtype=np.int64)
    ends = [dictionary(index[ids], [node.name for node in nodes]) for nodes, index in _ends(axis, graph)]
    return [pa.array(ids, kind), *ends]


def keys_of(table: pa.Table, type_: ResultType) -> list[Key]:
    """The value of every axis, row by row."""
    return list(zip(*(table[schema.key_of(axis)].to_pylist() for axis in type_.axes), strict=True))


def in_order(type_: ResultType, key: Key) -> tuple[Any, ...]:
    """Sorts keys: numbers by size, spans as `span_order`, words as words."""
    return tuple(span_order(one) if axis in NAMED else one for axis, one in zip(type_.axes, key, strict=True))


def read_rows(path: Place, type_: ResultType, columns: pa.Schema, graph: Graph) -> tuple[pa.Table, Footer]:
    """A table that was checked (`check_rows`), and its footer. Raises DamagedFileError, FileNotFoundError."""
    table, footer = read_whole(path, columns)
    return check_rows(table, type_, graph), footer


def check_rows(table: pa.Table, type_: ResultType, graph: Graph) -> pa.Table:
    """A table of results, merged or of a shard, whose ids are of this graph and whose names are those of its ids.

    What it holds becomes indices, cells of a page and of a CSV, so that a name is none but a node's or a span's.
    Raises DamagedFileError.
    """
    for axis in type_.axes:
        column = table[schema.key_of(axis)]
        if axis in NAMED:
            words = column.unique().to_pylist()
            bad = [word for word in words if word is not None and not _is_name(axis, word)]
            if bad:
                raise DamagedFileError(f"it has a {axis} {bad[0][:40]!r}, which none can be called")
            continue
        ids = column.to_numpy()
        for (nodes, index), name in zip(_ends(axis, graph), list(schema.columns_of(axis))[1:], strict=True):
            if len(ids) and not (ids.min() >= 0 and ids.max() < len(index)):
                raise DamagedFileError(f"it has ids that are not among the graph's {len(index):,}")
            found = table[name].combine_chunks()
            place = {node.name: i for i, node in enumerate(nodes)}
            codes = np.asarray([place.get(word, -1) for word in found.dictionary.to_pylist()], dtype=np.int64)
            if len(ids) and not np.array_equal(codes[found.indices.to_numpy()], index[ids]):
                raise DamagedFileError(f"its column {name} does not name what its ids are")
    return table


def _is_name(axis: str, word: str) -> bool:
    """Whether a word may stand in such a column: tokens are any text, the rest are names."""
    return axis == "token" or SPAN_NAME.fullmatch(word) is not None


def _ends(axis: str, graph: Graph) -> list[tuple[Sequence[Node], Int[np.ndarray, " id"]]]:
    """For each column of names of an axis, the nodes and which of them an id means."""
    if axis == "edge":
        return [(graph.senders, graph.edge_senders), (graph.receivers, graph.edge_receivers)]
    return [(graph.senders, np.arange(graph.n_senders))] if axis == "node" else []


def _order(rows: Rows) -> list[int] | None:
    """The order of rows by their axes, None where it is the one they have: edges are always all there, by id."""
    if rows.type.of == "edge":
        return None
    keys = list(zip(*(_plain(column) for column in rows.keys.values()), strict=True))
    return sorted(range(len(keys)), key=lambda i: in_order(rows.type, keys[i]))


def _taken(rows: Rows, order: list[int]) -> Rows:
    def take(column: Any) -> Any:
        return None if column is None else np.asarray(column)[order]

    keys = {axis: [column[i] for i in order] for axis, column in rows.keys.items()}
    columns = {name: take(getattr(rows, name)) for name in ("std", "n_prompts", "kept", "error")}
    return Rows(rows.type, keys, take(rows.value), **columns, facts=rows.facts)


def _plain(column: Any) -> list[Any]:
    return list(column.tolist()) if isinstance(column, np.ndarray) else list(column)


def span_order(span: str | None) -> tuple[int, int, str]:
    """Sorts spans: all positions first, then positions by number ("-1" is the answer's), then names."""
    if span is None:
        return (0, 0, "")
    if span.removeprefix("-").isdecimal():
        return (1, int(span), "")
    return (2, 0, span)


def edge_columns(graph: Graph) -> list[pa.Array]:
    """edge_id, sender and receiver of every edge."""
    return axis_columns("edge", np.arange(graph.n_edges), graph)


def dictionary(codes: Int[np.ndarray, " row"], values: Sequence[str]) -> pa.DictionaryArray:
    """A column of names, given as indices into `values`."""
    return pa.DictionaryArray.from_arrays(
        pa.array(np.asarray(codes, dtype=np.int32)), pa.array(values, pa.string())
    )


def nullable(values: Float[np.ndarray, " row"], kind: pa.DataType) -> pa.Array:
    """An array in which NaN is null."""
    values = np.asarray(values)
    return pa.array(values.astype(kind.to_pandas_dtype()), kind, mask=np.isnan(values))


def with_columns(table: pa.Table, columns: Mapping[str, Float[np.ndarray, " row"]]) -> pa.Table:
    """The table with these numbers in place of its own; NaN becomes null."""
    for name, values in columns.items():
        place = table.schema.get_field_index(name)
        table = table.set_column(place, table.field(place), nullable(values, table.field(place).type))
    return table


def floats(column: pa.ChunkedArray) -> Float[np.ndarray, " row"]:
    """A column of numbers as float64, in which null is NaN."""
    return np.array(column.cast(pa.float64()).to_numpy(), dtype=np.float64)
