"""The table of faithfulness and the circuits beside it: how they are written, whether they are still true.

Knows their columns, names and footers. Does not know how a circuit is evaluated.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.core.circuit import Circuit
from pipeline.core.items import digest
from pipeline.store.place.atomic import make_folder, read_json, remove, write_json
from pipeline.store.place.where import Place, each, found, relative
from pipeline.store.run.content import table_digest
from pipeline.store.run.files import DamagedFileError, read_footer, read_parquet, write_parquet
from pipeline.store.run.schema import required

FILE = "faithfulness.parquet"
FOLDER = "circuits"
MOST_EDGES = 50_000  # a larger circuit is not written as JSON: it is a share of the scores, which are there

SCHEMA = required(
    task=pa.string(),
    method=pa.string(),
    edge_fraction=(pa.float64(),),  # null: the kept set of a method that decides
    n_edges=pa.int64(),
    n_edges_pruned=pa.int64(),
    metric=pa.string(),
    metric_full=pa.float64(),
    metric_empty=pa.float64(),
    metric_circuit=pa.float64(),
    faithfulness=(pa.float64(),),  # null where full and empty do not differ
    rank=(pa.string(),),  # the rule, where a run compares several; else there is no such column
)


@dataclass(frozen=True)
class Evaluated:
    """One circuit and what it does: a row of the table."""

    task: str
    method: str
    edge_fraction: float | None
    n_edges: int
    n_edges_pruned: int
    metric: str
    metric_full: float
    metric_empty: float
    metric_circuit: float
    faithfulness: float | None
    rank: str | None = None

    @property
    def label(self) -> str:
        """Names the circuit within its method: the nominal share of edges, or `kept`; and the rule, where it is one of
        several."""
        share = "kept" if self.edge_fraction is None else f"{self.edge_fraction:g}"
        return share if self.rank is None else f"{self.rank}-{share}"

    def to_dict(self) -> dict[str, Any]:
        """The row, without a rule where there is one alone."""
        return {key: value for key, value in asdict(self).items() if key != "rank" or value is not None}


def is_current(folder: Place, key: Mapping[str, Any]) -> bool:
    """Whether table and circuits are there, undamaged, and were made from exactly this."""
    try:
        footer = read_footer(folder / FILE, SCHEMA)
        circuits = circuit_rows(folder)
        for _ in each(folder, lambda path: check_circuit(path, circuits[path]), circuits):
            pass
    except (DamagedFileError, FileNotFoundError):
        return False
    return all(footer.get(name) == value for name, value in key.items())


def circuit_rows(folder: Place) -> dict[Place, dict[str, Any]]:
    """The files of circuits that belong to the table, and its row for each. Raises DamagedFileError,
    FileNotFoundError."""
    rows = [Evaluated(**row) for row in read_parquet(folder / FILE, SCHEMA).to_pylist()]
    return {_path_of(folder, row): row.to_dict() for row in rows if row.n_edges_pruned <= MOST_EDGES}


def check_circuit(path: Place, row: Mapping[str, Any]) -> None:
    """DamagedFileError for a circuit that is not what its row says, FileNotFoundError for one that is not there."""
    try:
        circuit = read_json(path)
        edges, sha256 = circuit.pop("edges"), circuit.pop("sha256", None)  # which earlier versions wrote
        whole = circuit == row and len(edges) == row["n_edges_pruned"]
        whole &= sha256 in (None, digest({**circuit, "edges": edges}))
    except (ValueError, KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise DamagedFileError("it is not the circuit of its row in the table")


def _path_of(folder: Place, row: Evaluated) -> Place:
    return folder / FOLDER / f"{row.task}--{row.method}--{row.label}.json"


def scores_digest(folder: Place, task: str | None = None) -> str:
    """A hash over all aggregated scores, or those of a task, without what circuits are not selected from: intervals of
    a bootstrap and signs of prompts can come later."""
    paths = found(folder / "aggregate", "**/*.parquet" if task is None else f"task={task}/**/*.parquet")
    tables = {str(relative(path, folder)): _selected_from(path) for path in paths}
    return digest({name: table_digest(table) for name, table in tables.items()})


def _selected_from(path: Place) -> pa.Table:
    table = read_parquet(path)
    later = ("boot_low", "boot_high", "sign_agreement")
    return table.drop_columns([name for name in later if name in table.column_names])


def write(folder: Place, rows: Sequence[tuple[Evaluated, Circuit]], key: Mapping[str, Any]) -> None:
    """Writes every circuit that is small enough, then the table; circuits of an earlier table go."""
    make_folder(folder / FOLDER)
    written: set[Place] = set()
    for row, circuit in rows:
        if circuit.pruned.n_edges <= MOST_EDGES:
            path = _path_of(folder, row)
            write_json(path, {**row.to_dict(), "edges": _edges(circuit.pruned)})
            written.add(path)
    for path in set(found(folder / FOLDER, "*.json")) - written:
        remove(path)
    table = pa.Table.from_pylist([asdict(row) for row, _ in rows], schema=SCHEMA)
    write_parquet(folder / FILE, without_rank(table), key)


def without_rank(table: pa.Table) -> pa.Table:
    """The table as it is written: where no row has a rule of several, none has the column."""
    return table.drop_columns("rank") if table["rank"].null_count == len(table) else table


def _edges(circuit: Circuit) -> list[dict[str, Any]]:
    """The edges by falling |score|; the score is null where the method measured none."""
    score = np.full(circuit.graph.n_edges, np.nan) if circuit.score is None else circuit.score
    ids = np.flatnonzero(circuit.mask)
    ids = ids[np.argsort(-np.nan_to_num(np.abs(score[ids]), nan=-1.0), kind="stable")]
    names = circuit.graph.edge_names
    return [{"edge": names[i], "score": None if np.isnan(score[i]) else float(score[i])} for i in ids]
