"""The rows of the kit's table: one measured number each, with what it is held against, and how it is written.

Knows numbers and files. Does not know torch.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# ok and wrong: held against `allowed`. measured: a number, judged by nobody. skipped: not run, the note says why.
# failed: it raised, or its process died.
BAD = ("wrong", "failed")


@dataclass(frozen=True)
class Row:
    """One line of the table. `value` is None where nothing was measured."""

    what: str
    value: float | None = None
    unit: str = ""
    against: str = ""
    note: str = ""
    allowed: float | None = None
    verdict: str = "measured"
    part: str = ""


def held(what: str, value: float, allowed: float, against: str, note: str = "", unit: str = "") -> Row:
    """A row that is right where the value is at most what is allowed; NaN is wrong."""
    return Row(what, value, unit, against, note, allowed, "ok" if value <= allowed else "wrong")


def skipped(what: str, note: str) -> Row:
    return Row(what, note=note, verdict="skipped")


class Record:
    """Rows as gpu.json and gpu.md in a folder, written anew with every row: a kill loses nothing that was measured."""

    def __init__(self, folder: Path, facts: dict[str, Any]) -> None:
        self.folder, self.facts, self.rows = folder, facts, list[Row]()
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, row: Row) -> None:
        self.rows.append(row)
        self.write()

    def write(self) -> None:
        rows = [asdict(row) for row in self.rows]
        _replace(self.folder / "gpu.json", json.dumps({"facts": self.facts, "rows": rows}, indent=1) + "\n")
        _replace(self.folder / "gpu.md", markdown(self.facts, self.rows))

    @property
    def bad(self) -> list[Row]:
        return [row for row in self.rows if row.verdict in BAD]


def markdown(facts: dict[str, Any], rows: Iterable[Row]) -> str:
    """The table as a document of its own."""
    said = ", ".join(f"{name} {value}" for name, value in facts.items())
    lines = [
        f"Command: {said}",
        "",
        "| part | what | value | against | verdict | note |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = (row.part, row.what, number(row), against(row), row.verdict, row.note)
        lines.append("| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def number(row: Row) -> str:
    return "" if row.value is None else f"{row.value:.3g} {row.unit}".strip()


def against(row: Row) -> str:
    return row.against if row.allowed is None else f"{row.against}, at most {row.allowed:g}"


def line(row: Row) -> str:
    """A row for the terminal."""
    return f"{row.part:12s} {row.verdict:9s} {row.what:44s} {number(row):>14s}  {against(row)}  {row.note}"[
        :240
    ]


def _replace(path: Path, text: str) -> None:
    hidden = path.with_name(f".{path.name}")
    hidden.write_text(text)
    hidden.replace(path)
