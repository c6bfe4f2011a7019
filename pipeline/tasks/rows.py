"""Rows of a table of prompts from JSONL, CSV or Parquet, each with the place that errors name.

Knows file formats. Does not know what the fields mean, but for how CSV writes what is not text.
"""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.core.documents import parse_json
from pipeline.core.errors import PromptError
from pipeline.core.limits import too_much

EXPECTED = "clean, corrupted, answers and, where the metric compares, wrong_answers"

MOST_BYTES = 1 << 30  # of a file of text

Row = dict[str, Any]


def read_jsonl(path: Path) -> Iterator[tuple[str, Row]]:
    """Rows with "path:line". PromptError for a line that is no JSON object; blank lines are skipped."""
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            row = parse_json(line)
        except json.JSONDecodeError as error:
            raise PromptError(
                f"{where}: not valid JSON ({error.msg}, column {error.colno}); write one JSON object per line"
            ) from None
        except ValueError as error:
            raise PromptError(f"{where}: not valid JSON ({error}); write one flat object per line") from None
        if not isinstance(row, dict):
            raise PromptError(
                f"{where}: {kind_of(row)} where an object with the fields {EXPECTED} is expected"
            )
        yield where, row


def read_csv(path: Path) -> Iterator[tuple[str, Row]]:
    """Rows with "path:line", cells as what they mean. PromptError for whatever is no table of text."""
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
    """A CSV cell's value: a JSON list is a list, spans a JSON object, `*_idx` a token id, an empty cell nothing,
    the rest text."""
    if not cell:
        return None
    if name == "spans":
        try:
            return parse_json(cell)
        except ValueError:
            return cell
    if cell.lstrip().startswith("["):
        try:
            value = parse_json(cell)
        except ValueError:
            return cell
        return value if isinstance(value, list) else cell
    if name.endswith("_idx") and cell.strip().removeprefix("-").isdecimal():
        return int(cell)
    return cell


def read_parquet(path: Path) -> Iterator[tuple[str, Row]]:
    """Rows with "path:number", from 1. PromptError for a file that is not Parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # A file opened by us, so that a name such as "task=a/x.parquet" adds no partition columns.
        with path.open("rb") as file, pq.ParquetFile(file) as parquet:
            about = parquet.metadata
            n_bytes = sum(about.row_group(i).total_byte_size for i in range(about.num_row_groups))
            if problem := too_much({"rows": about.num_rows, "bytes": n_bytes}, path.stat().st_size):
                raise PromptError(f"{path}: {problem}; write it again")
            table = parquet.read()
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise PromptError(f"{path}: not a readable Parquet file ({reason}); write it again") from None
    for number, row in enumerate(table.to_pylist(), start=1):
        yield f"{path}:{number}", row


def _text(path: Path) -> str:
    try:
        if (size := path.stat().st_size) > MOST_BYTES:
            raise PromptError(
                f"{path}: {size:,} bytes are more than {MOST_BYTES:,}; cut it into several tasks"
            )
        data = path.read_bytes()
    except OSError as error:
        raise PromptError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        byte = data[error.start]
        raise PromptError(f"{path}:{line}: not UTF-8 (byte 0x{byte:02x}); save the file as UTF-8") from None


def kind_of(value: Any) -> str:
    """What a value is, in words for an error message."""
    if value is None:
        return "nothing"
    if isinstance(value, (str, list)) and not value:
        return "empty"
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return f"the number {value}"
    names = {str: "text", bool: "true or false", list: "a list", dict: "an object"}
    return names.get(type(value), type(value).__name__)
