"""Tables in the width of a terminal: no line is longer, no number is cut, nothing is lost."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.writing import LEAST, Sheet, show, table_of
from flows.writing import number as in_a_terminal
from pipeline.report.svg import MINUS
from pipeline.report.svg import number as on_a_page

WORDS = st.text("abc-_> ", min_size=1, max_size=40).map(str.strip).filter(bool)
NUMBERS = st.sampled_from(["", "7", "12,345,678", "≤ 16,768", "-0.1234 .. 0.1234", "83 %", "-"])


@st.composite
def sheets(draw) -> Sheet:
    kinds = draw(st.lists(st.booleans(), min_size=1, max_size=9))
    sheet = table_of(*(("#" if is_number else "") + draw(WORDS) for is_number in kinds))
    for _ in range(draw(st.integers(0, 4))):
        sheet.add_row(*(draw(NUMBERS if is_number else WORDS) for is_number in kinds))
    return sheet


@given(sheets(), st.integers(LEAST, 120))
def test_columns_that_stand_side_by_side_fit_and_hold_every_number_whole(sheet, room):
    fit = sheet.widths(room)
    if fit is None:
        return
    gap, widths = fit
    assert sum(widths) + gap * (len(widths) - 1) <= room
    for column, width in enumerate(widths):
        cells = [row[column] for row in sheet.rows]
        assert not sheet.is_number[column] or all(len(cell) <= width for cell in cells)
        assert all(len(word) <= width for word in sheet.heads[column].split())


@pytest.mark.parametrize("room", [40, 60, 80, 200])
def test_every_cell_is_there_in_every_width(capsys, monkeypatch, room):
    monkeypatch.setenv("COLUMNS", str(room))
    sheet = table_of("task", "method", "#items", "#prompts", "#backward", "#95 % interval", "#bootstrap")
    numbers = ["1,234", "128", "32,491", "-0.1234 .. 0.1234", "-0.2345 .. 0.2345"]
    sheet.add_row("induction", "edge_patching-prob_diff-mean_positional", *numbers)
    sheet.add_section()
    sheet.add_row("total", "", "7", "", "", "", "")
    show(sheet)
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= room
    for number in numbers:
        assert number in said
    assert "edge_patching-prob_diff-mean_positional" in re.sub(r"\s+(mean)?", r"\1", said) or room > 60
    assert "total" in said


def test_without_a_terminal_a_table_is_80_letters_wide(capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr("os.get_terminal_size", lambda *_: (_ for _ in ()).throw(OSError))
    sheet = table_of("name", "what it is")
    sheet.add_row("a", "word " * 60)
    show(sheet)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert sum(line.count("word") for line in lines) == 60


def test_a_name_steers_no_terminal(capsys):
    sheet = table_of("name", "#n")
    sheet.add_row("\x1b[31mred[/]", "1")
    show(sheet)
    assert "\\x1b[31mred[/]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("value", "scale", "shown", "paged"),
    [
        (2e-15, 4.6, "0", "0.00"),  # the KL of a whole model to itself
        (-3e-9, 1.0, "0", "0.00"),
        (2e-15, 0.0, "2e-15", "2.00e-15"),  # a p: of no scale
        (2e-15, 1e-12, "2e-15", "2.00e-15"),  # small among small ones
        (0.0123, 1.0, "0.0123", "0.0123"),
        (None, 1.0, "-", "–"),
    ],
)
def test_what_is_rounding_on_the_scale_of_its_measure_reads_as_zero(value, scale, shown, paged):
    assert in_a_terminal(value, scale) == shown
    assert on_a_page(value, scale=scale) == paged.replace("-", MINUS)
