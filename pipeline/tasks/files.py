"""Your own prompt pairs, from JSONL, CSV or Parquet.

Knows fields and what they may hold. Does not know file formats, nor tokenizers: whether clean and corrupted are
equally long, an answer is one token, and a span is where it is said to be, is checked where the model's tokenizer
is at hand.

Fields: `clean`, `corrupted` (or `corrupt`), `answers`, and `wrong_answers` where the metric compares. Prompts
are text or lists of token ids; answers are one or a list, text pieces or token ids. In CSV, lists are written
as JSON (`[" She", " He"]`). The columns of EAP-IG's files (`correct_idx`, `incorrect_idx`, an unnamed index)
are read too.

`spans` may name pieces of the clean prompt, for `positions` of methods: `{"name": "Mary", "verb": [14, 19]}`. A
piece is words that occur once, or [first, end) in characters, from 0; in prompts of token ids, [first, end) in
tokens. The same tokens are meant in the corrupted prompt. A prompt that lacks a span is left out where it is read.
"""

import difflib
import math
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from pipeline.core.errors import PromptError
from pipeline.core.prompts import Bos, Piece, PromptPair, Text
from pipeline.core.text import OneLine
from pipeline.tasks.base import Task, slug
from pipeline.tasks.rows import EXPECTED, Row, kind_of, read_csv, read_jsonl, read_parquet

SYNONYMS = {
    "corrupted": ("corrupted", "corrupt"),
    "answers": ("answers", "answer", "correct_idx"),
    "wrong_answers": ("wrong_answers", "wrong_answer", "incorrect_idx"),
}
KNOWN = ("clean", "spans", *(name for names in SYNONYMS.values() for name in names))
MOST_LETTERS = 1_000_000  # of a prompt, or token ids: no context holds more
INDEX_COLUMNS = ("", "Unnamed: 0", "__index_level_0__")
EXAMPLE = '{"subject": "Mary"}'


class FileTask(Task):
    """Prompt pairs from a file; `limit` takes the first, `corrupted_field` another column of corruptions."""

    name: Literal["file"] = "file"
    path: OneLine
    limit: int | None = Field(default=None, ge=1)
    corrupted_field: str = Field(default="corrupted", min_length=1)

    def default_id(self) -> str:
        """The file's stem."""
        return slug(Path(self.path).stem)

    def pairs(self, tokenizer: Any, seed: int) -> list[PromptPair]:  # noqa: ARG002 - the same for every task
        """The file's pairs in its order; tokenizer and seed play no part."""
        return read_pairs(self.path, corrupted_field=self.corrupted_field, bos=self.bos)[: self.limit]


def read_pairs(
    path: str | Path, *, corrupted_field: str = "corrupted", bos: Bos = "tokenizer"
) -> list[PromptPair]:
    """All prompt pairs of a `.jsonl`, `.csv` or `.parquet` file, each with `source` "file.jsonl:12".

    `bos="add"` puts the tokenizer's token for the beginning of a text before prompts where the tokenizer does not.
    Raises PromptError with file and line for whatever cannot be read; nothing is skipped but blank lines.
    """
    path = Path(path)
    readers = {".jsonl": read_jsonl, ".csv": read_csv, ".parquet": read_parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise PromptError(
            f"{path}: prompt pairs are read from {', '.join(readers)}; convert it to one of these"
        )
    if not path.is_file():
        raise PromptError(f"{path}: {_missing(path)}")
    pairs = [_pair(row, where, path.name, corrupted_field, bos) for where, row in reader(path)]
    if not pairs:
        raise PromptError(f"{path}: no prompt pairs in it; give at least one with the fields {EXPECTED}")
    return pairs


def _missing(path: Path) -> str:
    if path.is_dir():
        return "a folder, not a file; name a file in it"
    beside = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, beside, n=1)
    return f"no such file; did you mean {near[0]}?" if near else "no such file; check the path"


# --- one row -----------------------------------------------------------------------------------------------


def _pair(row: Row, where: str, file_name: str, corrupted_field: str, bos: Bos) -> PromptPair:
    row = {name: value for name, value in row.items() if name not in INDEX_COLUMNS and not _is_empty(value)}
    for name in row:
        # Other columns of corruptions ("corrupted_hard") may stand beside the chosen one.
        if name not in KNOWN and name != corrupted_field and not name.startswith("corrupted_"):
            near = difflib.get_close_matches(name, KNOWN, n=1)
            mend = f"did you mean {near[0]!r}?" if near else f"the fields are {EXPECTED}; rename or remove it"
            raise PromptError(f"{where}: unknown field {name!r}; {mend}")
    corrupted_names = SYNONYMS["corrupted"] if corrupted_field == "corrupted" else (corrupted_field,)
    clean = _prompt(_field(row, ("clean",), where), "clean", where)
    corrupted = _prompt(_field(row, corrupted_names, where), corrupted_field, where)
    if isinstance(clean, str) != isinstance(corrupted, str):
        raise PromptError(f"{where}: one prompt is text and the other token ids; write both the same way")
    return PromptPair(
        clean=clean,
        corrupted=corrupted,
        answers=_answers(_field(row, SYNONYMS["answers"], where), "answers", where),
        wrong_answers=_answers(_field(row, SYNONYMS["wrong_answers"], where, []), "wrong_answers", where),
        source=f"{file_name}:{where.rpartition(':')[2]}",
        spans=_spans(row.get("spans", {}), where),
        bos=bos,
    )


def _field(row: Row, names: tuple[str, ...], where: str, default: Any = None) -> Any:
    given = [name for name in names if name in row]
    if len(given) > 1:
        raise PromptError(f"{where}: both {given[0]!r} and {given[1]!r} are given; keep one")
    if given:
        return row[given[0]]
    if default is None:
        raise PromptError(f"{where}: the field {names[0]!r} is missing; each pair needs {EXPECTED}")
    return default


def _prompt(value: Any, name: str, where: str) -> Text:
    if isinstance(value, str | list) and len(value) > MOST_LETTERS:
        raise PromptError(f"{where}: {name!r} is {len(value):,} long, over {MOST_LETTERS:,}; shorten it")
    if isinstance(value, str):
        return _text(value, name, where)
    if isinstance(value, list) and value and all(_is_id(item) for item in value):
        return tuple(value)
    raise PromptError(f"{where}: {name!r} is {kind_of(value)}; give text or a list of token ids (from 0)")


def _text(value: str, name: str, where: str) -> str:
    """The text itself, if it can be written: JSON may hold the half of a character, and nothing else can."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        half = value[error.start].encode("unicode_escape").decode()
        raise PromptError(f"{where}: {name!r} holds half a character ({half}); write the whole") from None
    return value


def _answers(value: Any, name: str, where: str) -> tuple[str | int, ...]:
    values = value if isinstance(value, list) else [value]
    for item in values:
        if not (isinstance(item, str) and item) and not _is_id(item):
            raise PromptError(
                f"{where}: {name!r} holds {kind_of(item)}; give a text piece, a token id (from 0), or a list"
            )
        if isinstance(item, str):
            _text(item, name, where)
    if name == "answers" and not values:
        raise PromptError(f"{where}: 'answers' is empty; give the piece that follows the clean prompt")
    return tuple(values)


def _spans(value: Any, where: str) -> dict[str, Piece]:
    """The named pieces; whether they are in the prompt is checked with the tokenizer at hand."""
    if isinstance(value, list) and value and all(isinstance(item, tuple) for item in value):
        value = dict(value)  # a column of maps, as Parquet gives it
    if not isinstance(value, dict):
        raise PromptError(f"{where}: 'spans' is {kind_of(value)}; give an object such as {EXAMPLE}")
    # A column of structs has every name in every row.
    return {name: _piece(piece, name, where) for name, piece in value.items() if not _is_empty(piece)}


def _piece(value: Any, name: str, where: str) -> Piece:
    if isinstance(value, str) and value:
        return value
    if isinstance(value, list) and len(value) == 2 and all(_is_id(item) for item in value):
        return (value[0], value[1])
    raise PromptError(
        f"{where}: the span {name!r} is {kind_of(value)}; give words of the clean prompt, or [first, end) as two "
        "numbers from 0"
    )


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))
