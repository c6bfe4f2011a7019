"""The bootstrap's columns of a merged table: from which files they come, and when they need not be made anew.

Knows the files of every prompt's scores. Does not know how samples are drawn (`pipeline.store.run.bootstrap`).
"""

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from pipeline.core.items import Item, canonical_json, digest
from pipeline.core.results import EDGE_SCORES
from pipeline.store.place.where import Place
from pipeline.store.run import prompt_scores, schema
from pipeline.store.run.bootstrap import FEWEST, Bootstrap, intervals
from pipeline.store.run.files import DamagedFileError, read_footer, read_parquet
from pipeline.store.run.rows import floats, with_columns
from pipeline.store.run.run_dir import RunDirectory

COLUMNS = ("boot_low", "boot_high")


def with_intervals(
    run: RunDirectory, items: Sequence[Item], table: pa.Table, bootstrap: Bootstrap, target: Place
) -> tuple[pa.Table, str]:
    """The table with the columns of the bootstrap, and what they are made from. An earlier table that was made
    from the same lends its columns."""
    seed, task = int(run.manifest["identity"]["seed"]), items[0].task
    kept = [run.path / prompt_scores.path_of(item) for item in items]
    read_from = [(run.footer(item), read_footer(path)) for item, path in zip(items, kept, strict=True)]
    facts = {
        "samples": bootstrap.samples,
        "top": bootstrap.top,
        "fewest": FEWEST,
        "values": digest([footer["values"] for pair in read_from for footer in pair]),
    }
    made_from = canonical_json(facts)
    with contextlib.suppress(FileNotFoundError, DamagedFileError):
        if read_footer(target, schema.merged(EDGE_SCORES)).get("bootstrap") == made_from:
            earlier = read_parquet(target)
            return with_columns(table, {name: floats(earlier[name]) for name in COLUMNS}), made_from

    def shards() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for path in kept:
            yield prompt_scores.read(path)

    rank = np.nan_to_num(floats(table["rank"]), nan=np.inf)
    rows = np.flatnonzero(rank <= (bootstrap.top or len(rank)))
    edges = table["edge_id"].to_numpy()[rows]
    ends = intervals(shards, edges, seed=seed, task=task, samples=bootstrap.samples)
    columns = {name: np.full(len(table), np.nan) for name in COLUMNS}
    for name, end in zip(COLUMNS, ends, strict=True):
        columns[name][rows] = end
    return with_columns(table, columns), made_from
