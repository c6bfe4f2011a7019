"""What a cell of a table says: a list in any of the spellings that tools write, a token id, or nothing.

Knows how JSON, Python, numpy and pandas write lists, numbers and gaps. Does not know fields, rows or files.

Text that is wholly a list is that list. Text that only begins like one (`[INST] Hello`, `[1] A note`) is text; what
begins like a list of numbers or of quoted words and is none is an error, never text: its brackets and digits would be
scored without a word.
"""

import ast
import re
from typing import Any

from pipeline.core.documents import parse_json

LISTS = '[5, 6, 7] or [" a", " b"]'
MOST_ID = 2**31 - 1  # ids are kept as int32

GAPS = ("", "nan", "NaN", "<NA>")  # how pandas writes what is not there
GAPS_AMONG_IDS = (*GAPS, "None", "null", "NULL", "NA")

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_QUOTED = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""
_WORD = r"None|nan|NaN|True|False"
# An element with what may stand before the next: a comma, white space, or both.
_ELEMENT = re.compile(
    rf"(?:(?:np|numpy)\.\w+\(\s*|tensor\(\s*)?({_NUMBER}|{_QUOTED}|{_WORD})(\s*\))?(?=[\s,]|\Z)\s*(,)?\s*",
    re.DOTALL,
)
_WRAPPED = re.compile(
    r"(?:(?:np|numpy|torch)\.)?(?:array|tensor|list|tuple)\(\s*([\[(].*[\])])\s*(?:,\s*dtype=[^,()\[\]]+)?,?\s*\)",
    re.DOTALL,
)
_BEGINS_A_LIST = re.compile(rf"\[\s*(?:\.\.\.|-?\.?\d|['\"]|{_WORD}|(?:np|numpy)\.\w+\(|\[|\])")
_NOTE = re.compile(r"\[\d+\]\s*[^\s\]),;]")  # "[1] A footnote": the bracket closes before the text ends
_WHOLE = re.compile(r"([-+]?)(\d+)(?:\.0*|,0)?")


class CellError(ValueError):
    """What is wrong with a cell, in words that follow the field's name."""


def read_list(text: str, *, quoted: bool = False) -> list[Any] | None:
    """The list that `text` is as a whole, None for text. CellError for what begins like a list and is none, unless
    the text was `quoted`, so that it is known to be text, as in JSON."""
    cell = text.strip()
    if not cell or cell[0] not in "[(atnl":
        return None
    if wrapped := _WRAPPED.fullmatch(cell):
        cell = wrapped[1]
    if cell[0] == "[":
        return _bracketed(cell, quoted)
    # a tuple has a comma; "(a)" and "(1 + 2)" are text
    if cell[0] == "(" and cell[-1] == ")" and "," in cell:
        return _elements(cell[1:-1])
    return None


def _bracketed(cell: str, quoted: bool) -> list[Any] | None:
    if cell[-1] == "]":
        try:
            value = parse_json(cell)
        except ValueError:
            value = _elements(cell[1:-1])
        if value is not None:
            return list(value)
    if _BEGINS_A_LIST.match(cell) is None or _NOTE.match(cell):
        return None
    if "..." in cell and cell[-1] == "]":
        raise CellError(f"is a list that numpy has shortened (...); write all of it, as JSON: {LISTS}")
    if quoted:
        return None
    raise CellError(f"begins like a list and is none ({shortened(cell)}); write lists as JSON: {LISTS}")


def _elements(inside: str) -> list[Any] | None:
    """Numbers and quoted words between the brackets of Python's and numpy's lists, or None."""
    at, found, end = len(inside) - len(inside.lstrip()), [], len(inside)
    while at < end:
        match = _ELEMENT.match(inside, at)
        if match is None:
            return None
        found.append(_value(match[1]))
        at = match.end()
    return found


def _value(word: str) -> Any:
    if word[0] in "'\"":
        try:
            return ast.literal_eval(word.replace("\n", "\\n").replace("\r", "\\r"))
        except (SyntaxError, ValueError):
            return word[1:-1]
    if word in ("None", "nan", "NaN"):
        return None
    if word in ("True", "False"):
        return word == "True"
    digits = word.lstrip("+-")
    if len(digits) > 400:
        raise CellError(f"holds {number_in_words(digits)}, which is no token id")
    return int(word) if digits.isdecimal() else float(word)


def token_id(value: Any) -> int | None:
    """The token id that a number is, also one written as 302.0; None for whatever is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MOST_ID:
        return None
    return int(value) if value == int(value) else None


def id_in_text(text: str) -> int | None:
    """The token id that a cell spells (`302`, `302.0`, `3.02e2`), or None."""
    word = text.strip()
    if len(word) > 400:
        return None
    if whole := _WHOLE.fullmatch(word):
        return token_id(int(whole[1] + whole[2]))
    return token_id(float(word)) if re.fullmatch(_NUMBER, word) else None


def is_number(text: str) -> bool:
    """Whether a cell is a number and nothing else."""
    return re.fullmatch(rf"\s*{_NUMBER}\s*", text) is not None


def is_float_of_an_id(text: str) -> bool:
    """Whether a cell is what pandas makes of an id in a column with gaps: `302.0`."""
    return re.fullmatch(r"\d+\.0*", text) is not None


def read_object(text: str) -> Any:
    """The value of a cell that holds an object, as JSON or as Python writes a dict; else the text itself."""
    try:
        return parse_json(text)
    except ValueError:
        pass
    if text.lstrip().startswith("{") and len(text) <= 10_000:  # more is no handful of spans
        try:
            return ast.literal_eval(text.strip())
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            pass
    return text


# --- words for errors --------------------------------------------------------------------------------------


def number_in_words(digits: str) -> str:
    """`the number 302`, or for one that no line holds how long it is."""
    return f"the number {digits}" if len(digits) <= 40 else f"a number of {len(digits):,} digits"


def kind_of(value: Any) -> str:
    """What a value is, in words for an error message."""
    if value is None:
        return "nothing"
    if isinstance(value, (str, list)) and not value:
        return "empty"
    if isinstance(value, int) and not isinstance(value, bool):
        return number_in_words(str(value)) if abs(value) < 10**400 else "a number of over 400 digits"
    if isinstance(value, float):
        return f"the number {value}"
    names = {str: "text", bool: "true or false", list: "a list", dict: "an object"}
    return names.get(type(value), type(value).__name__)


def shortened(text: str, most: int = 40) -> str:
    """The beginning of a text, in quotes."""
    return repr(text if len(text) <= most else f"{text[:most]}...")
