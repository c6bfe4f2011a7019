"""What other methods have found on a shard, for one that combines it: read from the run directory.

Knows items' files and those of their prompts' scores. Does not know how they are combined.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pipeline.core.items import Item
from pipeline.core.results import EDGE_SCORES
from pipeline.core.scores import EdgeScores
from pipeline.store.run import prompt_scores
from pipeline.store.run.rows import floats
from pipeline.store.run.run_dir import RunDirectory


def found_by(
    directory: RunDirectory, item: Item, methods: Sequence[str], prompt_ids: Sequence[int]
) -> dict[str, EdgeScores]:
    """What these methods have found on the shard of an item, by id; with the scores of every prompt, in the order of
    `prompt_ids`, where they are kept. DamagedFileError and FileNotFoundError for files that are not good or not
    there."""
    return {id_: _scores(directory, replace(item, method=id_), prompt_ids) for id_ in methods}


def _scores(directory: RunDirectory, item: Item, prompt_ids: Sequence[int]) -> EdgeScores:
    directory.check(item)
    table = directory.table(item)
    rows = None
    if item.method in directory.prompt_scores:
        ids, by_id = prompt_scores.read(directory.path / prompt_scores.path_of(item))
        place = {int(id_): row for row, id_ in enumerate(ids)}
        rows = by_id[[place[id_] for id_ in prompt_ids]]
    (span,) = table["span"].unique().to_pylist()
    return EdgeScores(
        directory.graph,
        floats(table[EDGE_SCORES.value]),
        floats(table[f"{EDGE_SCORES.value}_std"]),
        table["n_prompts"].to_numpy().astype(np.int64),
        per_prompt=rows,
        span=span,
    )
