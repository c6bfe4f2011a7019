"""Rows of a table of prompts from JSONL, CSV or Parquet, each with the place that errors name.

Knows file formats, and reads them a row at a time: a file may be larger than memory. Does not know what the fields
mean, nor how the cells of a CSV file spell what is not text.

A CSV file may use commas, semicolons, tabs or bars, as its first line shows; JSONL and CSV may be gzipped (`.gz`).
"""

import csv
import gzip
import io
import json
import re
from collections.abc import Generator, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from pipeline.core.documents import parse_json
from pipeline.core.errors import PromptError
from pipeline.core.file_sizes import too_much
from pipeline.tasks.cells import kind_of

EXPECTED = "clean, corrupted, answers and, where the metric compares, wrong_answers"

MOST_BYTES = 1 << 36  # of a file of text
MOST_LINE = 1 << 26  # bytes
MOST_COLUMNS = 1000  # of a table, or fields of a row
ROWS = 1024  # of Parquet at a time
SEPARATORS = ",;\t|"

Row = dict[str, Any]
Bytes: TypeAlias = io.BufferedIOBase


class Reader(Protocol):
    """Yields ("path:line", row). Raises PromptError where there is no row."""

    def __call__(self, path: Path, file: Bytes) -> Iterator[tuple[str, Row]]: ...


class Table:
    """The rows of a file, read while they are asked for. PromptError for what is no such file."""

    def __init__(self, path: Path) -> None:
        name = path.name.lower().removesuffix(".gz")
        suffix = next((one for one in READERS if name.endswith(one)), None)
        zipped = path.name.lower().endswith(".gz")
        if suffix is None or (zipped and suffix == ".parquet"):
            raise PromptError(
                f"{path}: prompt pairs are read from .jsonl, .csv, .json, .parquet; convert it to one of these"
            )
        self.path = path
        self.spells = suffix in (".csv", ".tsv")  # every cell is text, whatever it means
        self._zipped = zipped
        self._reader = READERS[suffix]
        self._file: Bytes | None = None
        self._size = 0

    @property
    def share(self) -> float:
        """How much of the file has been read, from 0 to 1."""
        if self._file is None or self._file.closed:
            return 1.0 if self._size else 0.0
        return min(1.0, self._file.tell() / max(1, self._size))

    def rows(self) -> Generator[tuple[str, Row], None, None]:
        """("path:line", row) of every row."""
        try:
            with self.path.open("rb") as self._file:
                self._size = self.path.stat().st_size
                if self._size > MOST_BYTES:
                    raise PromptError(
                        f"{self.path}: {self._size:,} bytes are more than {MOST_BYTES:,}; cut it into several tasks"
                    )
                _refuse_archives(self.path, self._file, self._zipped)
                yield from self._reader(
                    self.path, gzip.GzipFile(fileobj=self._file) if self._zipped else self._file
                )
        except (gzip.BadGzipFile, EOFError) as error:
            raise PromptError(f"{self.path}: not a whole gzip file ({error}); write it again") from None
        except OSError as error:
            reason = error.strerror or str(error).splitlines()[0]
            raise PromptError(f"{self.path}: cannot be read ({reason}); check its permissions") from None


def _refuse_archives(path: Path, file: Bytes, zipped: bool) -> None:
    """Says what a file is that has another kind's name."""
    magic = file.read(4)
    file.seek(0)
    if magic[:2] == b"\x1f\x8b" and not zipped:
        raise PromptError(f"{path}: is gzipped; unpack it, or name it {path.name}.gz")
    if magic == b"PK\x03\x04":
        raise PromptError(f"{path}: is a zip archive or a spreadsheet; unpack it, or save it as CSV in UTF-8")


# --- JSONL -------------------------------------------------------------------------------------------------


def read_jsonl(path: Path, file: Bytes) -> Iterator[tuple[str, Row]]:
    """Rows with "path:line". PromptError for a line that is no JSON object; blank lines are skipped."""
    for number, line in enumerate(_lines(path, file), start=1):
        if line.isspace():
            continue
        where = f"{path}:{number}"
        try:
            row = parse_json(line.rstrip())
        except json.JSONDecodeError as error:
            raise PromptError(
                f"{where}: not valid JSON ({error.msg}, column {error.colno}); write one JSON object per line"
            ) from None
        except ValueError as error:
            raise PromptError(f"{where}: not valid JSON ({error}); write one flat object per line") from None
        yield (
            where,
            _object(row, where, "; write one object per line (in pandas: orient='records', lines=True)"),
        )


def _object(row: Any, where: str, mend: str = "") -> Row:
    """The row. PromptError where it is no object."""
    if not isinstance(row, dict):
        raise PromptError(
            f"{where}: {kind_of(row)} where an object with the fields {EXPECTED} is expected{mend}"
        )
    _refuse_too_many(len(row), where)
    return row


def _lines(path: Path, file: Bytes) -> Iterator[str]:
    """Lines of text, without a byte order mark at the beginning."""
    number = 0
    while data := file.readline(MOST_LINE + 1):
        number += 1
        if len(data) > MOST_LINE:
            raise PromptError(f"{path}:{number}: a line of over {MOST_LINE:,} bytes; write one pair per line")
        try:
            yield data.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            byte = data[error.start]
            raise PromptError(f"{path}:{number}: {_NO_UTF8.format(byte=byte)}") from None


_NO_UTF8 = "not UTF-8 (byte 0x{byte:02x}); save the file as UTF-8"


# --- CSV ---------------------------------------------------------------------------------------------------


def read_csv(path: Path, file: Bytes) -> Iterator[tuple[str, Row]]:
    """Rows with "path:line", every cell as text, "" where it is empty. PromptError for whatever is no table."""
    lines = _lines(path, file)
    first = next(lines, "")
    separator, start = _separator(first), 1
    if named := re.fullmatch(r"sep=(.)\s*", first):  # a line for spreadsheets
        separator, first = named[1], "\n"
    reader = csv.reader(_again(first, lines), delimiter=separator, strict=True)
    header: list[str] | None = None
    try:
        for cells in reader:
            where, start = f"{path}:{start}", reader.line_num + 1
            if not cells:
                continue
            if header is None:
                header = [name.strip().removeprefix("\ufeff") for name in cells]
                _check_header(header, where)
                continue
            if len(cells) != len(header):
                raise PromptError(
                    f"{where}: {len(cells)} cells where the header has {len(header)}; "
                    f"put double quotes around text with {_NAMES.get(separator, 'it')}"
                )
            yield where, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise PromptError(f"{path}:{reader.line_num}: not valid CSV ({error}); {_csv_mend(error)}") from None


_NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}


def _separator(first: str) -> str:
    """What separates the columns, by the first line: what makes a column `clean` of it, else commas."""
    for separator in SEPARATORS:
        names = [name.strip(' "\r\n') for name in first.split(separator)]
        if "clean" in names and len(names) > 1:
            return separator
    return max(SEPARATORS, key=first.count) if not first.count(",") else ","


def _again(first: str, lines: Iterable[str]) -> Iterator[str]:
    """Lines as `csv` wants them, also where a carriage return alone ends them."""
    for text in chain((first,), lines):
        yield from io.StringIO(text, newline="") if "\r" in text else (text,)


def _csv_mend(error: csv.Error) -> str:
    if "field limit" in str(error):
        return "close the quotes, or give pairs with cells as long as that in JSONL or Parquet"
    return "mend the quotes"


def _check_header(header: list[str], where: str) -> None:
    _refuse_too_many(len(header), where)
    seen: set[str] = set()
    for name in header:
        if name in seen and name:
            raise PromptError(f"{where}: the column {name[:100]!r} occurs twice; remove one")
        seen.add(name)


def _refuse_too_many(n_columns: int, where: str) -> None:
    if n_columns > MOST_COLUMNS:
        raise PromptError(
            f"{where}: {n_columns:,} columns are more than {MOST_COLUMNS:,}; keep {EXPECTED}, and what describes a pair"
        )


# --- Parquet -----------------------------------------------------------------------------------------------


def read_parquet(path: Path, file: Bytes) -> Iterator[tuple[str, Row]]:
    """Rows with "path:number", from 1. PromptError for a file that is not Parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        # A file opened by us, so that a name such as "task=a/x.parquet" adds no partition columns.
        with pq.ParquetFile(file) as parquet:
            about = parquet.metadata
            _refuse_too_many(len(parquet.schema_arrow), f"{path}")
            n_bytes = sum(about.row_group(i).total_byte_size for i in range(about.num_row_groups))
            if problem := too_much({"rows": about.num_rows, "bytes": n_bytes}, path.stat().st_size):
                raise PromptError(f"{path}: {problem}; write it again")
            for batch in parquet.iter_batches(ROWS):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}:{number}", row
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise PromptError(f"{path}: not a readable Parquet file ({reason}); write it again") from None


# --- JSON --------------------------------------------------------------------------------------------------


def read_json(path: Path, file: Bytes) -> Iterator[tuple[str, Row]]:
    """Rows with "path:number", from 1, of a list of objects or of the list under "prompts". PromptError for others."""
    data = file.read(MOST_LINE + 1)
    if len(data) > MOST_LINE:
        raise PromptError(
            f"{path}: over {MOST_LINE:,} bytes of JSON in one piece; write one object per line (.jsonl)"
        )
    try:
        document = parse_json(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise PromptError(f"{path}: {_NO_UTF8.format(byte=data[error.start])}") from None
    except ValueError as error:
        raise PromptError(
            f"{path}: not valid JSON ({error}); write a list of objects, or one per line (.jsonl)"
        ) from None
    rows = document.get("prompts") if isinstance(document, dict) else document
    if not isinstance(rows, list):
        raise PromptError(
            f'{path}: {kind_of(document)} where a list of objects, or one under "prompts", is expected; write it so'
        )
    for number, row in enumerate(rows, start=1):
        yield (where := f"{path}:{number}"), _object(row, where)


READERS: dict[str, Reader] = {
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".json": read_json,
    ".csv": read_csv,
    ".tsv": read_csv,
    ".parquet": read_parquet,
}
