"""Your own prompt pairs, from JSONL, CSV or Parquet.

Knows file formats and field names. Does not know tokenizers: whether clean and corrupted are equally long,
and whether an answer is one token, is checked where the model's tokenizer is at hand.

Fields: `clean`, `corrupted` (or `corrupt`), `answers`, and `wrong_answers` where the metric compares. Prompts
are text or lists of token ids; answers are one or a list, text pieces or token ids. In CSV, lists are written
as JSON (`[" She", " He"]`). The columns of EAP-IG's files (`correct_idx`, `incorrect_idx`, an unnamed index)
are read too.
"""

import csv
import difflib
import io
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from pipeline.core.errors import PromptError
from pipeline.core.prompts import PromptPair, Text
from pipeline.tasks.base import Task, slug

SYNONYMS = {
    "corrupted": ("corrupted", "corrupt"),
    "answers": ("answers", "answer", "correct_idx"),
    "wrong_answers": ("wrong_answers", "wrong_answer", "incorrect_idx"),
}
KNOWN = ("clean", *(name for names in SYNONYMS.values() for name in names))
INDEX_COLUMNS = ("", "Unnamed: 0", "__index_level_0__")
EXPECTED = "clean, corrupted, answers and, where the metric compares, wrong_answers"

Row = dict[str, Any]


class FileTask(Task):
    """Prompt pairs from a file; `limit` takes the first, `corrupted_field` another column of corruptions."""

    name: Literal["file"] = "file"
    path: str
    limit: int | None = Field(default=None, ge=1)
    corrupted_field: str = Field(default="corrupted", min_length=1)

    def default_id(self) -> str:
        """The file's stem."""
        return slug(Path(self.path).stem)

    def pairs(self, tokenizer: Any, seed: int) -> list[PromptPair]:  # noqa: ARG002 - the same for every task
        """The file's pairs in its order; tokenizer and seed play no part."""
        return read_pairs(self.path, corrupted_field=self.corrupted_field)[: self.limit]


def read_pairs(path: str | Path, *, corrupted_field: str = "corrupted") -> list[PromptPair]:
    """All prompt pairs of a `.jsonl`, `.csv` or `.parquet` file, each with `source` "file.jsonl:12".

    Raises PromptError with file and line for whatever cannot be read; nothing is skipped but blank lines.
    """
    path = Path(path)
    readers = {".jsonl": _read_jsonl, ".csv": _read_csv, ".parquet": _read_parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise PromptError(
            f"{path}: prompt pairs are read from {', '.join(readers)}; convert it to one of these"
        )
    if not path.is_file():
        raise PromptError(f"{path}: {_missing(path)}")
    pairs = [_pair(row, where, path.name, corrupted_field) for where, row in reader(path)]
    if not pairs:
        raise PromptError(f"{path}: no prompt pairs in it; give at least one with the fields {EXPECTED}")
    return pairs


# --- formats: rows with the place they come from -----------------------------------------------------------


def _read_jsonl(path: Path) -> Iterator[tuple[str, Row]]:
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise PromptError(
                f"{where}: not valid JSON ({error.msg}, column {error.colno}); write one JSON object per line"
            ) from None
        except RecursionError:
            raise PromptError(f"{where}: JSON nested too deeply; write one flat object per line") from None
        if not isinstance(row, dict):
            raise PromptError(f"{where}: {_kind(row)} where an object with the fields {EXPECTED} is expected")
        yield where, row


def _read_csv(path: Path) -> Iterator[tuple[str, Row]]:
    reader = csv.reader(io.StringIO(_text(path), newline=""), strict=True)
    header: list[str] | None = None
    start = 1
    try:
        for cells in reader:
            where, start = f"{path}:{start}", reader.line_num + 1
            if not cells:
                continue
            if header is None:
                header = [name.strip() for name in cells]
                _check_header(header, path)
                continue
            if len(cells) != len(header):
                raise PromptError(
                    f"{where}: {len(cells)} cells where the header has {len(header)}; "
                    "put double quotes around text with commas"
                )
            yield where, {name: _cell(name, cell) for name, cell in zip(header, cells, strict=True)}
    except csv.Error as error:
        raise PromptError(f"{path}:{reader.line_num}: not valid CSV ({error}); mend the quotes") from None


def _check_header(header: list[str], path: Path) -> None:
    if twice := {name for name in header if name and header.count(name) > 1}:
        raise PromptError(f"{path}:1: the column {min(twice)!r} occurs twice; remove one")
    if "label" in header and not {"answers", "answer", "correct_idx"} & set(header):
        raise PromptError(
            f"{path}:1: a 'label' column says nothing about tokens; replace it by 'answers' and "
            "'wrong_answers' (JSON lists of all right and wrong pieces), or use the task greater_than"
        )


def _cell(name: str, cell: str) -> Any:
    """A CSV cell's value: a JSON list is a list, `*_idx` a token id, an empty cell nothing, the rest text."""
    if not cell:
        return None
    if cell.lstrip().startswith("["):
        try:
            value = json.loads(cell)
        except (json.JSONDecodeError, RecursionError):
            return cell
        return value if isinstance(value, list) else cell
    if name.endswith("_idx") and cell.strip().removeprefix("-").isdecimal():
        return int(cell)
    return cell


def _read_parquet(path: Path) -> Iterator[tuple[str, Row]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # A file opened by us, so that a name such as "task=a/x.parquet" adds no partition columns.
        with path.open("rb") as file:
            table = pq.read_table(file)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise PromptError(f"{path}: not a readable Parquet file ({reason}); write it again") from None
    for number, row in enumerate(table.to_pylist(), start=1):
        yield f"{path}:{number}", row


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise PromptError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        byte = data[error.start]
        raise PromptError(f"{path}:{line}: not UTF-8 (byte 0x{byte:02x}); save the file as UTF-8") from None


def _missing(path: Path) -> str:
    if path.is_dir():
        return "a folder, not a file; name a file in it"
    beside = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, beside, n=1)
    return f"no such file; did you mean {near[0]}?" if near else "no such file; check the path"


# --- one row -----------------------------------------------------------------------------------------------


def _pair(row: Row, where: str, file_name: str, corrupted_field: str) -> PromptPair:
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
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(_is_id(item) for item in value):
        return tuple(value)
    raise PromptError(f"{where}: {name!r} is {_kind(value)}; give text or a list of token ids (from 0)")


def _answers(value: Any, name: str, where: str) -> tuple[str | int, ...]:
    values = value if isinstance(value, list) else [value]
    for item in values:
        if not (isinstance(item, str) and item) and not _is_id(item):
            raise PromptError(
                f"{where}: {name!r} holds {_kind(item)}; give a text piece, a token id (from 0), or a list"
            )
    if name == "answers" and not values:
        raise PromptError(f"{where}: 'answers' is empty; give the piece that follows the clean prompt")
    return tuple(values)


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _kind(value: Any) -> str:
    """What a value is, in words for an error message."""
    if value is None:
        return "nothing"
    if isinstance(value, (str, list)) and not value:
        return "empty"
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return f"the number {value}"
    names = {str: "text", bool: "true or false", list: "a list", dict: "an object"}
    return names.get(type(value), type(value).__name__)
