"""Prompts that a run has recorded: what it goes on with, whatever has become of the file that they came from.

Knows configs and `prompts.parquet`. Does not know tokenizers: recorded prompts are tokens already.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow.compute as pc

from pipeline.config import RunConfig
from pipeline.core.errors import CircuitsError
from pipeline.core.prompts import TokenPair
from pipeline.store.place.where import Place
from pipeline.store.run.files import DamagedFileError
from pipeline.store.run.prompts_file import read_prompts
from pipeline.store.run.tables import prompts_of
from pipeline.tasks import FileTask


@dataclass(frozen=True)
class Recorded:
    """The prompts of one task, in order, read part by part whenever they are gone through."""

    path: Place
    task: str

    def __iter__(self) -> Iterator[TokenPair]:
        for rows in read_prompts(self.path, self.task):
            yield from prompts_of(rows.filter(pc.equal(rows["task"], self.task)))


def recorded_prompts(run: Place, config: RunConfig) -> dict[str, Recorded]:
    """The prompts from files, by task, of the tasks of `config` that the run has just so, path included.

    None of a run that has recorded none, or whose record is damaged. Tasks that write prompts themselves write the
    same ones again.
    """
    path = run / "prompts.parquet"
    try:
        there = RunConfig.load(run / "run.yaml").task_ids
        same = [
            id_
            for id_, task in config.task_ids.items()
            if isinstance(task, FileTask) and there.get(id_) == task
        ]
        has = (
            {name for rows in read_prompts(path) for name in pc.unique(rows["task"]).to_pylist()}
            if same
            else {}
        )
    except (CircuitsError, DamagedFileError, FileNotFoundError):
        return {}
    return {id_: Recorded(path, id_) for id_ in same if id_ in has}
