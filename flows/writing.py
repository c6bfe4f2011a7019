"""Tables, lines and numbers on stdout.

Knows how they are written, and that no name or message in them may steer the terminal. Does not know what they mean.
"""

from shutil import get_terminal_size
from textwrap import wrap
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from pipeline.core.showing import or_zero
from pipeline.core.text import printable

GAPS = (2, 1)  # between columns; the second where they fit no other way
LEAST = 30  # letters of a line, however narrow the terminal
NAME = 14  # letters of a name that stay together


class Sheet:
    """Rows of plain words under heads: what they hold is shown, never obeyed. Columns marked # hold numbers."""

    def __init__(self, *columns: str) -> None:
        self.heads = [column.removeprefix("#") for column in columns]
        self.is_number = [column.startswith("#") for column in columns]
        self.rows: list[list[str]] = []
        self.ends: set[int] = set()  # a line follows on so many rows

    def add_row(self, *cells: Any) -> None:
        self.rows.append([printable(str(cell)) for cell in cells])

    def add_section(self) -> None:
        self.ends.add(len(self.rows))

    def widths(self, room: int) -> tuple[int, list[int]] | None:
        """The gap between columns, and how wide they are in `room` letters: heads break at words first, then names
        break. None where the numbers do not fit side by side."""
        natural, least = [], []
        for column, head in enumerate(self.heads):
            cells = max((cell_len(row[column]) for row in self.rows), default=0)
            word = max(map(cell_len, head.split() or [""]))
            natural.append(max(cells, cell_len(head)))
            least.append(max(cells if self.is_number[column] else min(cells, NAME), word))
        for gap in GAPS:
            left = room - gap * (len(natural) - 1)
            wide = natural
            for numbers in (True, False):
                mine = [is_number == numbers for is_number in self.is_number]
                wide = _narrowed(wide, least, mine, left)
            if sum(wide) <= left:
                return gap, wide
        return None


def _narrowed(wide: list[int], least: list[int], mine: list[bool], room: int) -> list[int]:
    """Widths that fit the room, as far as those of `mine` can give: whoever has most to spare gives first."""
    wide = list(wide)
    while sum(wide) > room:
        spare = [w - low if is_mine else 0 for w, low, is_mine in zip(wide, least, mine, strict=True)]
        if not max(spare):
            break
        wide[spare.index(max(spare))] -= 1
    return wide


def table_of(*columns: str) -> Sheet:
    """A table with the columns; those marked # hold numbers."""
    return Sheet(*columns)


def show(sheet: Sheet) -> None:
    """The whole table in the terminal's width (80 letters where there is none): no number is ever cut. Where it does
    not fit side by side, a row becomes a few lines."""
    room = _room()
    fit = sheet.widths(room)
    if fit is None:
        for row in sheet.rows:
            _stack(sheet, row, room)
        return
    gap, widths = fit
    console = Console(highlight=False, markup=False, emoji=False, width=room)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, gap - 1, 0, 0))
    for head, is_number, width in zip(sheet.heads, sheet.is_number, widths, strict=True):
        table.add_column(head, justify="right" if is_number else "left", width=width, overflow="fold")
    for i, row in enumerate(sheet.rows):
        table.add_row(*row, end_section=i + 1 in sheet.ends)
    console.print()
    console.print(table)
    console.print()


def _stack(sheet: Sheet, row: list[str], room: int) -> None:
    """A row as its names, and below them every number with its head."""
    names = [cell for cell, is_number in zip(row, sheet.is_number, strict=True) if not is_number and cell]
    numbers = [
        f"{head} {cell}".replace(" ", "\u00a0")  # stays on one line
        for head, is_number, cell in zip(sheet.heads, sheet.is_number, row, strict=True)
        if is_number and cell
    ]
    for line in wrap("  ".join(names), room) or [""]:
        print(line)
    for line in wrap(", ".join(numbers), room - 2, break_long_words=False, break_on_hyphens=False):
        print(f"  {line}".replace("\u00a0", " "))


def wrapped(text: str) -> list[str]:
    """The text in lines of the terminal's width."""
    return wrap(text, _room(), subsequent_indent="  ", break_on_hyphens=False) or [""]


def _room() -> int:
    return max(get_terminal_size().columns, LEAST)


def say(text: str) -> None:
    """A line on stdout."""
    print(printable(text))


def count(value: Any) -> str:
    """Whole numbers with commas; anything else as it is."""
    return f"{value:,}" if isinstance(value, int) else str(value)


def number(value: float | None, scale: float = 0.0) -> str:
    """Four digits, or a dash for nothing. What is rounding on the `scale` of its measure reads as 0."""
    return "-" if value is None else f"{or_zero(value, scale):.4g}"


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
