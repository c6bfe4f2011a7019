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
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from pipeline.core.errors import PromptError
from pipeline.core.prompts import Bos, PromptPair
from pipeline.core.text import OneLine
from pipeline.tasks.base import Task, slug
from pipeline.tasks.fields import Layout, layout_of, pair_of, refuse_lonely_ids
from pipeline.tasks.rows import EXPECTED, Table

_LOOKED_AT = 1000  # rows, before the first is believed
_LAYOUTS = 1000  # that are remembered


class FileTask(Task):
    """Prompt pairs from a JSONL, CSV or Parquet file; `limit` takes the first, `corrupted_field` another column
    of corruptions."""

    name: Literal["file"] = "file"
    path: OneLine
    limit: int | None = Field(default=None, ge=1)
    corrupted_field: str = Field(default="corrupted", min_length=1)

    def default_id(self) -> str:
        """The file's stem."""
        path = Path(self.path)
        return slug(Path(path.stem).stem if path.suffix == ".gz" else path.stem)

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
        pairs = islice(_pairs(table, self.corrupted_field, self.bos), self.limit)
        while portion := list(islice(pairs, size)):
            yield portion, table.share


def read_pairs(
    path: str | Path, *, corrupted_field: str = "corrupted", bos: Bos = "tokenizer"
) -> list[PromptPair]:
    """All prompt pairs of a `.jsonl`, `.csv`, `.tsv` or `.parquet` file, each with `source` "file.jsonl:12".

    `bos="add"` puts the tokenizer's token for the beginning of a text before prompts where the tokenizer does not.
    Raises PromptError with file and line for whatever cannot be read; nothing is skipped but blank lines.
    """
    return list(_pairs(_table(path), corrupted_field, bos))


def _table(path: str | Path) -> Table:
    path = Path(path)
    table = Table(path)
    if not path.is_file():
        raise PromptError(f"{path}: {_missing(path)}")
    return table


def _missing(path: Path) -> str:
    if path.is_dir():
        return "a folder, not a file; name a file in it"
    beside = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, beside, n=1)
    return f"no such file; did you mean {near[0]}?" if near else "no such file; check the path"


def _pairs(table: Table, corrupted_field: str, bos: Bos) -> Iterator[PromptPair]:
    """The pairs of a table, one after the other."""
    path, rows, layouts = table.path, table.rows(), dict[tuple[str, ...], Layout]()
    first = list(islice(rows, _LOOKED_AT))
    if not first:
        raise PromptError(f"{path}: no prompt pairs in it; give at least one with the fields {EXPECTED}")
    names_seen = {name for _, row in first for name in row}
    for number, (where, row) in enumerate(chain(first, rows)):
        names = tuple(row)
        layout = layouts.get(names)
        if layout is None:
            if len(layouts) >= _LAYOUTS:
                layouts.clear()
            header = f"{path}:1" if table.spells else where
            layout = layouts[names] = layout_of(names, corrupted_field, header)
        source = f"{path.name}:{where.rpartition(':')[2]}"
        pair = pair_of(row, layout, where, source, corrupted_field, bos=bos, spells=table.spells)
        if not number:
            refuse_lonely_ids(names_seen, pair.clean, where)
        yield pair
