"""Your own prompt pairs, from JSONL, CSV or Parquet.

Knows the task and the order of its rows. Does not know tokenizers: whether clean and corrupted are equally long, an
answer is one token, and a span is where it is said to be, is checked where the model's tokenizer is at hand.

Fields: `clean`, `corrupted` (or `corrupt`), `answers`, and `wrong_answers` where the metric compares. Prompts
are text or lists of token ids; answers are one or a list, text pieces or token ids. In CSV, lists are written
as JSON (`[" She", " He"]`), or as Python, numpy and pandas write them. The columns of EAP-IG's files (`correct_idx`,
`incorrect_idx`, an unnamed index) are read too. Other columns (`id`, `note`) are kept beside the prompts.

`spans` may name pieces of the clean prompt, for `positions` of methods: `{"name": "Mary", "verb": [14, 19]}`. A
piece is words that occur once, or [first, end) in characters, from 0; in prompts of token ids, [first, end) in
tokens. The same tokens are meant in the corrupted prompt. A prompt that lacks a span is left out where it is read.
"""

import difflib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from pipeline.core.errors import PromptError
from pipeline.core.graph import Graph
from pipeline.core.prompts import Bos, PromptPair
from pipeline.core.text import OneLine
from pipeline.tasks.base import Task, slug
from pipeline.tasks.fields import Layout, layout_of, pair_of, refuse_lonely_ids
from pipeline.tasks.folders import Folder
from pipeline.tasks.own_circuit import circuit_beside
from pipeline.tasks.presets import (
    PRESETS,
    Columns,
    MappedField,
    hint,
    layout_of_mapped,
    mapped,
    preset_row,
    reading_problem,
)
from pipeline.tasks.reader import EXPECTED, Row, Table

_LOOKED_AT = 1000  # rows, before the first is believed
_LAYOUTS = 1000  # that are remembered


class FileTask(Task):
    """Prompt pairs from a JSONL, CSV, JSON or Parquet file, or a dataset's folder; `limit` takes the first,
    `corrupted_field` another column of corruptions.

    `columns` says which column holds a field, or which piece of one (`{clean: prompt, corrupted:
    random_counterfactual.prompt}`); `preset` names the convention of a collection, which does the same.
    """

    name: Literal["file"] = "file"
    path: OneLine
    limit: int | None = Field(default=None, ge=1)
    corrupted_field: str = Field(default="corrupted", min_length=1)
    columns: dict[MappedField, OneLine] = Field(default_factory=dict)
    preset: OneLine | None = None

    later: ClassVar = frozenset({"columns", "preset"})

    @model_validator(mode="after")
    def _one_way_to_read(self) -> "FileTask":
        if problem := reading_problem(self.columns, self.preset):
            raise ValueError(problem)
        return self

    def default_id(self) -> str:
        """The file's stem."""
        path = Path(self.path)
        return slug(Path(path.stem).stem if path.suffix == ".gz" else path.stem)

    def truth(self, graph: Graph, model: str) -> tuple[str, ...] | None:
        """What `circuit.json` beside the file says, where that is of this model (`beside`)."""
        return circuit_beside(Path(self.path), graph, model)

    def pairs(self, tokenizer: Any, seed: int) -> list[PromptPair]:
        """The file's pairs in its order; tokenizer and seed play no part."""
        return list(chain.from_iterable(pairs for pairs, _ in self.portions(tokenizer, seed)))

    def portions(
        self,
        tokenizer: Any,  # noqa: ARG002 - the same for every task
        seed: int,  # noqa: ARG002
        size: int = 1024,
    ) -> Iterator[tuple[list[PromptPair], float]]:
        """The pairs as they are read, `size` at a time, and how much of the file that is."""
        table = _table(self.path)
        pairs = islice(_pairs(table, self.corrupted_field, self.bos, self.columns, self.preset), self.limit)
        while portion := list(islice(pairs, size)):
            yield portion, table.share


def read_pairs(
    path: str | Path,
    *,
    corrupted_field: str = "corrupted",
    bos: Bos = "tokenizer",
    columns: Columns | None = None,
    preset: str | None = None,
) -> list[PromptPair]:
    """All prompt pairs of a `.jsonl`, `.csv`, `.tsv`, `.json` or `.parquet` file, or of the folder of a dataset that
    `datasets` saved, each with `source` "file.jsonl:12".

    `columns` says which column holds a field, `{"clean": "prompt"}`, or `preset` names a collection whose tables do.
    `bos="add"` puts the tokenizer's token for the beginning of a text before prompts where the tokenizer does not.
    Raises PromptError with file and line for whatever cannot be read; nothing is skipped but blank lines.
    """
    if problem := reading_problem(columns or {}, preset):
        raise PromptError(f"{path}: {problem}")
    return list(_pairs(_table(path), corrupted_field, bos, columns or {}, preset))


def _table(path: str | Path) -> Table | Folder:
    path = Path(path)
    if path.is_dir():
        return Folder(path)
    table = Table(path)
    if not path.is_file():
        raise PromptError(f"{path}: {_missing(path)}")
    return table


def _missing(path: Path) -> str:
    beside = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, beside, n=1)
    return f"no such file; did you mean {near[0]}?" if near else "no such file; check the path"


@contextmanager
def _hinting(names: tuple[str, ...], mend: str = "") -> Iterator[None]:
    """Adds to an error what would read a table with these columns."""
    try:
        yield
    except PromptError as error:
        if words := mend or hint(names):
            raise PromptError(f"{error}; {words}") from None
        raise


def _pairs(
    table: Table | Folder, corrupted_field: str, bos: Bos, columns: Columns, preset: str | None
) -> Iterator[PromptPair]:
    """The pairs of a table, one after the other."""
    told = partial(layout_of_mapped, columns=columns, corrupted_field=corrupted_field)
    with closing(table.rows()) as rows:
        if preset is not None:
            said = ((where, preset_row(PRESETS[preset], row, corrupted_field, where)) for where, row in rows)
            of_preset = partial(told, columns={}, corrupted_field="corrupted")
            yield from _pairs_of(table, said, "corrupted", bos, of_preset)
        elif columns:
            said = ((where, mapped(row, columns, where)) for where, row in rows)
            yield from _pairs_of(table, said, corrupted_field, bos, told)
        else:
            yield from _pairs_of(table, rows, corrupted_field, bos, None)


def _pairs_of(
    table: Table | Folder,
    rows: Iterator[tuple[str, Row]],
    corrupted_field: str,
    bos: Bos,
    told: Callable[[tuple[str, ...]], Layout] | None,
) -> Iterator[PromptPair]:
    """The pairs of rows whose layout is told, or found by the names of their columns."""
    path, layouts = table.path, dict[tuple[str, ...], Layout]()
    first = list(islice(rows, _LOOKED_AT))
    if not first:
        raise PromptError(f"{path}: no prompt pairs in it; give at least one with the fields {EXPECTED}")
    names_seen = {name for _, row in first for name in row}
    plain, hinted = nullcontext(), nullcontext if told else _hinting
    for number, (where, row) in enumerate(chain(first, rows)):
        names = tuple(row)
        layout = layouts.get(names)
        if layout is None:
            if len(layouts) >= _LAYOUTS:
                layouts.clear()
            header = f"{path}:1" if table.spells else where
            with hinted(names):
                layout = told(names) if told else layout_of(names, corrupted_field, header)
            layouts[names] = layout
        source = f"{path.name}:{where.rpartition(':')[2]}"
        with plain if number else hinted(names):
            pair = pair_of(row, layout, where, source, corrupted_field, bos=bos, spells=table.spells)
        if not number and not told:
            with _hinting(names, "or read it with preset: eap_ig_greater_than_idx"):
                refuse_lonely_ids(names_seen, pair.clean, where)
        yield pair
