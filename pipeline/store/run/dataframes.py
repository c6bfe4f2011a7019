"""Files of a run as tables and frames; what is missing or damaged is one line with what to type next.

Knows Parquet files in a run directory. Does not know which of them somebody wants.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pyarrow as pa

from pipeline.core.errors import RunDirectoryError
from pipeline.core.items import Item
from pipeline.core.prompt_rows import PromptRows
from pipeline.core.results import ResultType
from pipeline.store.place.where import Place, relative
from pipeline.store.run import prompt_scores, schema
from pipeline.store.run.aggregate import INTERVAL, merged_path
from pipeline.store.run.files import DamagedFileError, read_parquet
from pipeline.store.run.renewed import renewed
from pipeline.store.run.rows import dictionary, read_rows
from pipeline.store.run.run_dir import RunDirectory

if TYPE_CHECKING:
    from pandas import DataFrame


T = TypeVar("T")

Merged = tuple[ResultType, str, str]  # a type of result, task and method
Sources = list[tuple[Merged | Item, dict[str, str]]]  # tables of a run, and labels of their rows


def frame_of(directory: RunDirectory, sources: Sources, what: str) -> "DataFrame":
    """The rows of all items' files and merged tables that are there, each labelled; RunDirectoryError when there is
    none."""
    import pandas as pd

    tables = []
    for source, labels in sources:
        path = (
            directory.file_of(source) if isinstance(source, Item) else directory.path / merged_path(*source)
        )
        if path.exists():
            if isinstance(source, Item):
                table = read_item(directory, source)
            else:
                table = read_merged(directory, path, source[0])
            for position, (name, label) in enumerate(labels.items()):
                column = dictionary(np.zeros(len(table), dtype=np.int32), [label])
                table = table.add_column(position, name, column)
            tables.append(table)
    if not tables:
        done, total = len(directory.done(rename=False)), len(directory.items)
        raise RunDirectoryError(
            f"{directory.path}: has no {what} yet ({done} of {total} items done); compute the rest with "
            f"`circuits resume {directory.path}`"
        )
    frame = _stacked(tables).unify_dictionaries().to_pandas(types_mapper={pa.bool_(): pd.BooleanDtype()}.get)
    return frame.astype({"rank": "Int32"}) if "rank" in frame else frame


def _stacked(tables: list[pa.Table]) -> pa.Table:
    """All rows, with the columns of the table that has most; those that others lack are null there."""
    widest = max(tables, key=lambda table: table.num_columns)
    return pa.concat_tables([widest.slice(0, 0), *tables], promote_options="default")


def read_item(directory: RunDirectory, item: Item) -> pa.Table:
    """The rows of an item; RunDirectoryError when its file is missing or damaged."""
    return checked(directory, lambda _: directory.table(item), directory.file_of(item))


def read_table(directory: RunDirectory, path: Place, columns: pa.Schema) -> pa.Table:
    """The rows of a file of the run; RunDirectoryError when it is missing or damaged."""
    return checked(directory, lambda there: read_parquet(there, columns), path)


def read_merged(directory: RunDirectory, path: Place, type_: ResultType) -> pa.Table:
    """Merged results; those of an earlier version as this one would have written them."""
    return checked(directory, lambda there: _merged(there, type_, directory), path)


def _merged(path: Place, type_: ResultType, directory: RunDirectory) -> pa.Table:
    columns = schema.merged(type_)
    table, footer = read_rows(path, type_, columns, directory.graph)
    table = table.select(list(dict.fromkeys([*columns.names, *table.column_names])))
    is_new = type_.merge == "concat" or footer.items() >= INTERVAL.items()
    return table if is_new else renewed(table)


def prompt_score_frame(directory: RunDirectory, method: str, task: str) -> "DataFrame":
    """A row per prompt, a column per edge, of all shards whose prompts' scores are there; RunDirectoryError when none
    are."""
    import pandas as pd

    shards = [
        checked(directory, partial(_one_shard, directory, item), path)
        for item, path in _kept(directory, method, task)
    ]
    ids, rows = zip(*shards, strict=True)
    index = pd.Index(np.concatenate(ids), name="prompt_id")
    columns = list(directory.graph.edge_names)
    return pd.DataFrame(np.concatenate(rows), index=index, columns=columns, copy=False)


def prompt_rows(directory: RunDirectory, method: str, task: str) -> PromptRows:
    """The scores of all prompts whose shards are there, read shard after shard when they are gone through;
    RunDirectoryError when none are, and for a damaged file when it is met."""
    kept = _kept(directory, method, task)

    def rows_of(path: Place) -> int:
        return int(prompt_scores.check(path, directory.graph.n_edges, "float16")["rows"])

    n_prompts = sum(checked(directory, rows_of, path) for _, path in kept)

    def pieces() -> Iterator[np.ndarray]:
        for item, path in kept:
            yield checked(directory, partial(_one_shard, directory, item), path)[1]

    return PromptRows(n_prompts, pieces)


def _kept(directory: RunDirectory, method: str, task: str) -> list[tuple[Item, Place]]:
    """The items whose prompts' scores are there, and where. RunDirectoryError when none are."""
    items = [item for item in directory.items if (item.task, item.method) == (task, method)]
    paths = ((item, directory.path / prompt_scores.path_of(item)) for item in items)
    if kept := [(item, path) for item, path in paths if path.exists()]:
        return kept
    raise RunDirectoryError(
        f"{directory.path}: keeps no scores by prompt of {method} on {task}; compute them with "
        f"`circuits resume {directory.path} --set store.prompt_scores=true`"
    )


def _one_shard(directory: RunDirectory, item: Item, path: Place) -> tuple[np.ndarray, np.ndarray]:
    """Prompt ids and scores of a shard, which must be as many and as wide as they are claimed to be."""
    rows = prompt_scores.check(path, directory.graph.n_edges, "float16")["rows"]
    if rows != str(len(directory.used_prompts(item.task, item.shard))):
        raise DamagedFileError(f"it has {rows} rows, which is not the number of the shard's prompts")
    return prompt_scores.read(path)


def checked(directory: RunDirectory, read: Callable[[Place], T], path: Place) -> T:
    """What `read` returns; RunDirectoryError when the file is missing or damaged."""
    try:
        return read(path)
    except FileNotFoundError:
        name, resume = relative(path, directory.path), f"`circuits resume {directory.path}`"
        if directory.is_marked_complete:
            raise RunDirectoryError(
                f"{directory.path}: is complete and has no {name}: its config asks for none, or the file was taken "
                f"away ({resume} brings it back)"
            ) from None
        raise RunDirectoryError(
            f"{directory.path}: has no {name} yet; `circuits status {directory.path}` says what is missing and "
            f"{resume} computes it"
        ) from None
    except DamagedFileError as error:
        raise RunDirectoryError(
            f"{path}: damaged ({error}); `circuits resume {directory.path}` computes it anew"
        ) from None
