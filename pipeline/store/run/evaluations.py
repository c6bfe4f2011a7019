"""What circuits did, prompt by prompt, and what evaluations have found: their files, and whether they are still true.

Knows columns, names and footers. Does not know how a circuit is run, nor what is found in it.

A file per task, evaluation and shard holds the metric of every prompt in every circuit; its footer has the key of all
that it depends on, so that a run that was killed while it evaluates keeps what it has. Those of faithfulness, which is
always looked at, lie above the others.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from pipeline.core.items import EVALUATIONS, Item
from pipeline.store.place.atomic import remove
from pipeline.store.place.where import Place, found
from pipeline.store.run.circuits import without_rank
from pipeline.store.run.files import DamagedFileError, read_footer, read_parquet, write_parquet
from pipeline.store.run.schema import NAME, required

FOLDER = EVALUATIONS
FILE = "evaluations.parquet"
PATTERN = "task=*/**/shard-*.parquet"
FAITHFULNESS = "faithfulness"
FULL, EMPTY = "full", "empty"

VALUES = required(
    method=NAME,
    evaluation=NAME,
    circuit=NAME,  # its label within the evaluation; full and empty of each method
    prompt_id=pa.int64(),
    value=pa.float64(),
)
FOUND = required(
    task=pa.string(),
    method=pa.string(),
    evaluation=pa.string(),
    circuit=(pa.string(),),  # null: a number of the method, not of one circuit
    quantity=pa.string(),
    value=(pa.float64(),),  # null: it cannot be known
    rank=(pa.string(),),  # by which rule, where a run compares several; else there is no such column
)

Label = tuple[str, str, str]  # method, evaluation, circuit
ByPrompt = dict[Label, Float[np.ndarray, " prompt"]]


def path_of(folder: Place, item: Item, rank: str | None = None, number: int = 0) -> Place:
    """Where the values of an evaluation's shard lie; `rank` is the rule, where it is not the first, and `number` the
    round of one that searches."""
    task = folder / FOLDER / f"task={item.task}"
    within = task if item.method == FAITHFULNESS else task / f"evaluation={item.method}"
    within = within if rank is None else within / f"rank={rank}"
    within = within / f"round={number}" if number else within
    return within / f"shard-{item.shard:05d}.parquet"


def write_values(path: Place, prompt_ids: Sequence[int], values: Mapping[Label, Any], key: str) -> None:
    """Writes the metric of every prompt in every circuit. Raises OSError."""
    n = len(prompt_ids)
    columns = [
        pa.array([label[i] for label in values for _ in range(n)], pa.string()).dictionary_encode()
        for i in range(3)
    ]
    numbers = np.concatenate([np.zeros(0), *(np.asarray(one, dtype=np.float64) for one in values.values())])
    ids = pa.array(list(prompt_ids) * len(values), pa.int64())
    table = pa.table([*columns, ids, pa.array(numbers)], schema=VALUES)
    write_parquet(path, table, {"key": key})


def has_values(path: Place, key: str) -> bool:
    """Whether a good file of that key is there."""
    try:
        if read_footer(path, VALUES).get("key") != key:
            return False
        read_parquet(path, VALUES)
    except (DamagedFileError, FileNotFoundError):
        return False
    return True


def read_values(path: Place) -> ByPrompt:
    """The metric of every prompt, in the order of ids, by method, evaluation and circuit. Raises DamagedFileError,
    FileNotFoundError."""
    frame = read_parquet(path, VALUES).to_pandas()
    names = ["method", "evaluation", "circuit"]
    by_label = frame.sort_values("prompt_id", kind="stable").groupby(names, observed=True, sort=False)[
        "value"
    ]
    return {label: values.to_numpy(dtype=np.float64) for label, values in by_label}


def write_found(folder: Place, rows: Sequence[Mapping[str, Any]], key: Mapping[str, Any]) -> None:
    """Writes what evaluations have found; without any there is no file."""
    if rows:
        table = pa.Table.from_pylist([dict(row) for row in rows], schema=FOUND)
        write_parquet(folder / FILE, without_rank(table), key)
    else:
        remove(folder / FILE)


def is_found(folder: Place, key: Mapping[str, Any], *, wanted: bool) -> bool:
    """Whether what was found is there, undamaged, and comes from exactly this."""
    try:
        footer = read_footer(folder / FILE, FOUND)
        read_parquet(folder / FILE, FOUND)
    except FileNotFoundError:
        return not wanted
    except DamagedFileError:
        return False
    return wanted and all(footer.get(name) == str(value) for name, value in key.items())


def files(folder: Place) -> list[Place]:
    """All files of values."""
    return sorted(found(folder / FOLDER, PATTERN))
