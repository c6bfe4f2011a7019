"""Every prompt's score of every edge, one file per item: written, checked, read back.

Knows the file's columns and sizes. Does not know which methods have such scores, nor who asked for them.

float32 unless told otherwise: scores of one prompt spread over many decades, and float16 holds five digits
fewer. It has 11 bits, no number above 65,504 and none below 6e-8, so that weak edges tie or become zero.
"""

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int

from pipeline.core.errors import ScoreError
from pipeline.core.items import Item
from pipeline.store.place.where import Place
from pipeline.store.run import schema
from pipeline.store.run.files import DamagedFileError, Footer, read_footer, read_parquet, write_parquet

FOLDER = "prompt_scores"
SIZES = {"float32": 4, "float16": 2}  # bytes of a number

_TYPES = {"float32": pa.float32(), "float16": pa.float16()}
_GROUP_BYTES = 1 << 26  # what a reader that goes through a file by row groups holds at once


def path_of(item: Item) -> PurePosixPath:
    """Where an item's file lies, relative to the run directory."""
    return PurePosixPath(
        FOLDER, f"task={item.task}", f"method={item.method}", f"shard-{item.shard:05d}.parquet"
    )


def n_bytes(n_prompts: int, n_edges: int, kind: str) -> int:
    """The size of the numbers; compression takes away some tenths of it."""
    return n_prompts * (8 + n_edges * SIZES[kind])


def write(
    path: Place,
    prompt_ids: Sequence[int],
    scores: Float[np.ndarray, "prompt edge"],
    kind: str,
    facts: Mapping[str, Any],
) -> None:
    """Writes the rows of these prompts atomically; NaN, what was not measured, becomes null.

    Raises ScoreError for a score that does not fit `kind`, and OSError.
    """
    n_prompts, n_edges = scores.shape
    if len(prompt_ids) != n_prompts:
        raise ValueError(f"scores of {n_prompts} prompts for {len(prompt_ids)} prompts")
    with np.errstate(over="ignore"):
        values = scores.astype(kind).reshape(-1)
    unmeasured = np.isnan(values)
    if not np.isfinite(values[~unmeasured]).all():
        largest = np.nanmax(np.abs(scores))
        raise ScoreError(f"a prompt's score of {largest:.3g} does not fit {kind}; set store.dtype: float32")
    expected = schema.prompt_scores(n_edges, _TYPES[kind])
    flat = pa.array(values, _TYPES[kind], mask=unmeasured if unmeasured.any() else None)
    rows = pa.FixedSizeListArray.from_arrays(flat, type=expected.field("scores").type)
    table = pa.table([pa.array(prompt_ids, pa.int64()), rows], schema=expected)
    write_parquet(path, table, facts, row_group=max(1, _GROUP_BYTES // (n_edges * SIZES[kind])))


def check(path: Place, n_edges: int, kind: str) -> Footer:
    """The footer of a file that holds scores in `kind` or finer. Raises DamagedFileError, FileNotFoundError."""
    try:
        return read_footer(path, schema.prompt_scores(n_edges, _TYPES[kind]))
    except DamagedFileError:
        if kind == "float32":
            raise
    return read_footer(path, schema.prompt_scores(n_edges, _TYPES["float32"]))


def read(path: Place) -> tuple[Int[np.ndarray, " prompt"], Float[np.ndarray, "prompt edge"]]:
    """Prompt ids and their scores in float32, NaN where null. Raises DamagedFileError, FileNotFoundError."""
    table = read_parquet(path)
    flat = table["scores"].combine_chunks().flatten()
    values = flat.to_numpy(zero_copy_only=False).astype(np.float32, copy=False)
    return table["prompt_id"].to_numpy(), values.reshape(len(table), table["scores"].type.list_size)
