"""Tables, lines and numbers on stdout.

Knows how they are written, and that no name or message in them may steer the terminal. Does not know what they mean.
"""

from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from pipeline.core.text import printable


class _Plain(Table):
    """A table of plain words: what they hold is shown, never obeyed."""

    def add_row(self, *cells: Any, **options: Any) -> None:
        super().add_row(*(printable(str(cell)) for cell in cells), **options)


def table_of(*columns: str) -> Table:
    """A table with the columns; those marked # hold numbers."""
    table = _Plain(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(
            column.removeprefix("#"), justify="right" if column.startswith("#") else "left", no_wrap=True
        )
    return table


def show(table: Table) -> None:
    """The whole table whatever the terminal's width: a cut number is worse than a broken line."""
    Console(highlight=False, markup=False, width=1000).print(table)


def say(text: str) -> None:
    """A line on stdout."""
    print(printable(text))


def count(value: Any) -> str:
    """Whole numbers with commas; anything else as it is."""
    return f"{value:,}" if isinstance(value, int) else str(value)


def number(value: float | None) -> str:
    """Four digits, or a dash for nothing."""
    return "-" if value is None else f"{value:.4g}"


def share(value: float | None) -> str:
    """A percentage, or a dash for nothing."""
    return "-" if value is None else f"{value:.0%}"


def size(value: float) -> str:
    """Bytes in the unit that fits."""
    for unit in ("B", "KB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"
