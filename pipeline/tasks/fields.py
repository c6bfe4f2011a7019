"""From a row of a table to a prompt pair: which field is which, and what its value means beside the others.

Knows fields and what they may hold. Does not know file formats, nor tokenizers.

A number is a token id; text is text, also text of digits. In CSV, where every cell is text, a bare number is an id in
the columns `*_idx` and beside prompts of ids. What could be read in two ways is refused with the spelling of each.
"""

import difflib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.core.errors import PromptError
from pipeline.core.prompts import Answer, Bos, Piece, PromptPair, Text
from pipeline.core.text import printable
from pipeline.tasks.cells import (
    GAPS,
    GAPS_AMONG_IDS,
    CellError,
    id_in_text,
    is_float_of_an_id,
    is_number,
    kind_of,
    number_in_words,
    read_list,
    read_object,
    shortened,
    token_id,
)
from pipeline.tasks.reader import EXPECTED, Row

SYNONYMS = {
    "corrupted": ("corrupted", "corrupt"),
    "answers": ("answers", "answer", "correct_idx"),
    "wrong_answers": ("wrong_answers", "wrong_answer", "incorrect_idx"),
    "corrupted_answers": ("corrupted_answers", "corrupted_answer"),
}
KNOWN = ("clean", "spans", *(name for names in SYNONYMS.values() for name in names))
MOST_LETTERS = 1_000_000  # of a prompt, or token ids: no context holds more
INDEX_COLUMNS = re.compile(r"|Unnamed: .*|__index_level_\d+__")  # of pandas
EXAMPLE = '{"subject": "Mary"}'

# Words that people use for a field; beside the field itself they are a note like any other.
_MEANT = {
    "corrupted": ("corruption", "corr", "counterfactual", "patched"),
    "answers": (
        "correct",
        "correct_answer",
        "correct_answers",
        "right",
        "right_answers",
        "target",
        "targets",
    ),
    "wrong_answers": (
        "wrong",
        "incorrect",
        "incorrect_answer",
        "incorrect_answers",
        "distractor",
        "distractors",
    ),
}
_SAME = 0.8  # of difflib: a slip of the pen
_NEAR = 0.6


@dataclass(frozen=True)
class Layout:
    """Which columns of a table are what; the same for all rows with these columns."""

    corrupted: tuple[str, ...]
    answers: tuple[str, ...]
    wrong_answers: tuple[str, ...]
    notes: tuple[str, ...]
    corrupted_answers: tuple[str, ...] = ()


def layout_of(names: Sequence[str], corrupted_field: str, where: str) -> Layout:
    """What these columns are. PromptError for one that is nearly the name of a field."""
    have = set(names)
    corrupted = SYNONYMS["corrupted"] if corrupted_field == "corrupted" else (corrupted_field,)
    if "label" in have and not have & {*SYNONYMS["answers"]}:
        raise PromptError(
            f"{where}: a 'label' column says nothing about tokens; replace it by 'answers' and "
            "'wrong_answers' (JSON lists of all right and wrong pieces), or use the task greater_than"
        )
    notes = []
    for name in names:
        # Other columns of corruptions ("corrupted_hard") may stand beside the chosen one.
        if (
            name in KNOWN
            or name == corrupted_field
            or name.startswith("corrupted_")
            or INDEX_COLUMNS.fullmatch(name)
        ):
            continue
        if printable(name) != name:
            raise PromptError(f"{where}: unknown field {name[:100]!r}; name it with letters, or remove it")
        if near := _meant_by(name, have):
            raise PromptError(
                f"{where}: unknown field {name[:100]!r}; did you mean {near!r}? Rename or remove it"
            )
        notes.append(name)

    def there(known: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name for name in known if name in have)

    answers, wrong, others = (
        there(SYNONYMS[name]) for name in ("answers", "wrong_answers", "corrupted_answers")
    )
    return Layout(there(corrupted), answers, wrong, tuple(notes), others)


def _meant_by(name: str, have: set[str]) -> str | None:
    """The field whose name was nearly written. A word that is only like one counts while that field is not there."""
    plain = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")[:100]
    if plain in KNOWN:
        return plain
    for field, words in _MEANT.items():
        if plain in words and not have & {*SYNONYMS[field]}:
            return field
    close = difflib.get_close_matches(plain, KNOWN, n=1, cutoff=_NEAR)
    if not close:
        return None
    if difflib.SequenceMatcher(None, close[0], plain).ratio() >= _SAME:
        return close[0]
    family = next((names for names in SYNONYMS.values() if close[0] in names), (close[0],))
    return None if have & {*family} else close[0]


def refuse_lonely_ids(names: set[str], prompt: Text, where: str) -> None:
    """PromptError for a table of text whose answers are `correct_idx`, without wrong ones: tables of the greater-than
    tasks look so, and hold the year's last digits there, which are no token ids."""
    others = {*SYNONYMS["wrong_answers"], "answers", "answer"}
    if "correct_idx" in names and not names & others and isinstance(prompt, str):
        raise PromptError(
            f"{where}: 'correct_idx' without 'incorrect_idx' beside text may be a label (a year's last digits) and no "
            "token id; write all right and wrong pieces, or their token ids, as JSON lists into 'answers' and "
            "'wrong_answers', or use the task greater_than"
        )


def pair_of(
    row: Row, layout: Layout, where: str, source: str, corrupted_field: str, *, bos: Bos, spells: bool
) -> PromptPair:
    """The pair of a row; in a table that `spells`, every cell is text whatever it means. PromptError names `where`."""
    clean, clean_spelt = _prompt(row.get("clean"), "clean", where, spells)
    corrupted, corrupted_spelt = _prompt(
        _given(row, layout.corrupted, where, spells)[1], corrupted_field, where, spells
    )
    if isinstance(clean, str) != isinstance(corrupted, str):
        raise PromptError(f"{where}: one prompt is text and the other token ids; write both the same way")
    of_ids = not isinstance(clean, str)
    name, value = _given(row, layout.answers, where, spells)
    answers = _answers(value, name or "answers", "answers", where, of_ids, spells)
    if not answers:
        if value is None or _is_gap(value, GAPS_AMONG_IDS if spells else ()):
            raise PromptError(f"{where}: the field 'answers' is missing; each pair needs {EXPECTED}")
        raise PromptError(f"{where}: 'answers' is empty; give the piece that follows the clean prompt")
    name, value = _given(row, layout.wrong_answers, where, spells)
    wrong = _answers(value, name or "wrong_answers", "wrong_answers", where, of_ids, spells)
    name, value = _given(row, layout.corrupted_answers, where, spells)
    others = _answers(value, name or "corrupted_answers", "corrupted_answers", where, of_ids, spells)
    if (clean_spelt or corrupted_spelt) and any(isinstance(answer, str) for answer in (*answers, *wrong)):
        raise PromptError(
            f"{where}: the prompts are lists written as text, and the answers are text: write the lists without "
            "quotes if they are token ids"
        )
    spans, gaps = row.get("spans"), GAPS_AMONG_IDS if spells else ()
    return PromptPair(
        clean=clean,
        corrupted=corrupted,
        answers=answers,
        wrong_answers=wrong,
        source=source,
        spans={} if spans is None or _is_gap(spans, gaps) else _spans(spans, where),
        bos=bos,
        notes=_notes(row, layout.notes, where) if layout.notes else {},
        corrupted_answers=others,
    )


# --- fields ------------------------------------------------------------------------------------------------


def _given(row: Row, names: tuple[str, ...], where: str, spells: bool) -> tuple[str | None, Any]:
    """Name and value of the one of these columns that holds something; (None, None) where none does."""
    found: tuple[str | None, Any] = (None, None)
    for name in names:
        value = row.get(name)
        if value is None or _is_gap(value, GAPS if spells else ()):
            continue
        if found[0] is not None:
            raise PromptError(f"{where}: both {found[0]!r} and {name!r} are given; keep one")
        found = name, value
    return found


def _is_gap(value: Any, words: tuple[str, ...]) -> bool:
    return math.isnan(value) if isinstance(value, float) else isinstance(value, str) and value in words


def _prompt(value: Any, name: str, where: str, spells: bool) -> tuple[Text, bool]:
    """Text or ids, and whether the ids were written as text where they need not be."""
    if value is None or (spells and value in GAPS) or (isinstance(value, float) and math.isnan(value)):
        raise PromptError(f"{where}: the field {name!r} is missing; each pair needs {EXPECTED}")
    if isinstance(value, str | list | tuple) and len(value) > MOST_LETTERS and not spells:
        raise _too_long(value, name, where)
    spelt = False
    if isinstance(value, str):
        read = _list(value, name, where, spells)
        if read is None:
            if len(value) > MOST_LETTERS:
                raise _too_long(value, name, where)
            return _text(value, name, where), False
        value, spelt = read, not spells
        if len(value) > MOST_LETTERS:
            raise _too_long(value, name, where)
    if isinstance(value, list) and value:
        ids = [item if type(item) is int and 0 <= item < 2**31 else token_id(item) for item in value]
        if None not in ids:
            return tuple(ids), spelt  # type: ignore[arg-type]  # none is None
    raise PromptError(f"{where}: {name!r} is {kind_of(value)}; give text or a list of token ids (from 0)")


def _too_long(value: Any, name: str, where: str) -> PromptError:
    return PromptError(f"{where}: {name!r} is {len(value):,} long, over {MOST_LETTERS:,}; shorten it")


def _list(text: str, name: str, where: str, spells: bool) -> list[Any] | None:
    try:
        return read_list(text, quoted=not spells)
    except CellError as error:
        raise PromptError(f"{where}: {name!r} {error}") from None


def _text(value: str, name: str, where: str) -> str:
    """The text itself, if it can be written: JSON may hold the half of a character, and nothing else can."""
    if value.isascii():
        return value
    try:
        value.encode()
    except UnicodeEncodeError as error:
        half = value[error.start].encode("unicode_escape").decode()
        raise PromptError(f"{where}: {name!r} holds half a character ({half}); write the whole") from None
    return value


def _answers(
    value: Any, column: str, name: str, where: str, of_ids: bool, spells: bool
) -> tuple[Answer, ...]:
    """The answers in a cell of `column`, text pieces or ids; none where nothing is there."""
    if value is None:
        return ()
    only_ids = column.endswith("_idx")
    if isinstance(value, str):
        if (only_ids or (spells and of_ids)) and value.strip() in GAPS_AMONG_IDS:
            return ()
        read = _list(value, column, where, spells) if value[:1] in "[( \nantl" else None
        if read is None:
            return (_bare(value, column, name, where, of_ids, spells),)
        value = read
    items = value if isinstance(value, list | tuple) else [value]
    return tuple([_answer(item, name, where, of_ids, only_ids) for item in items])


def _bare(text: str, column: str, name: str, where: str, of_ids: bool, spells: bool) -> Answer:
    """An answer that stands in its cell without a list around it."""
    if column.endswith("_idx"):
        if (found := id_in_text(text)) is None:
            raise PromptError(
                f"{where}: {name!r} holds {_number_or_text(text)} in {column!r}, which is no token id; give a whole "
                "number from 0, or text pieces in a column 'answers' or 'wrong_answers'"
            )
        return found
    if spells and of_ids and is_number(text):
        if (found := id_in_text(text)) is None:
            raise PromptError(
                f"{where}: {name!r} holds {_number_or_text(text)}, which is no token id; give a whole number from 0"
            )
        return found
    if spells and not of_ids and is_float_of_an_id(text):
        raise PromptError(
            f"{where}: {name!r} holds {shortened(text)}: write [{text.partition('.')[0]}] if it is a token id, and "
            f'["{text}"] if it is text'
        )
    return _answer(text, name, where, of_ids, only_ids=False)


def _answer(item: Any, name: str, where: str, of_ids: bool, only_ids: bool) -> Answer:
    if isinstance(item, list | tuple) and item:
        ids = [found for token in item if (found := token_id(token)) is not None]
        if len(ids) == len(item):
            return tuple(ids)
    if isinstance(item, str) and item and not only_ids:
        if of_ids and is_number(item):
            raise PromptError(
                f"{where}: {name!r} holds the text {shortened(item)} beside prompts of token ids; write a token id "
                "without quotes"
            )
        return _text(item, name, where)
    if only_ids and isinstance(item, str) and (found := id_in_text(item)) is not None:
        return found
    if (found := token_id(item)) is not None:
        return found
    what = _number_or_text(item) if isinstance(item, str) else kind_of(item)
    raise PromptError(f"{where}: {name!r} holds {what}; give a text piece, a token id (from 0), or a list")


def _number_or_text(text: str) -> str:
    if not text.strip():
        return "empty"
    if not is_number(text):
        return f"the text {shortened(text)}"
    return number_in_words(text.strip())


# --- spans and notes ---------------------------------------------------------------------------------------


def _spans(value: Any, where: str) -> dict[str, Piece]:
    """The named pieces; whether they are in the prompt is checked with the tokenizer at hand."""
    if isinstance(value, str):
        value = read_object(value)
    if isinstance(value, list) and value and all(isinstance(item, tuple) for item in value):
        value = dict(value)  # a column of maps, as Parquet gives it
    if not isinstance(value, dict):
        raise PromptError(f"{where}: 'spans' is {kind_of(value)}; give an object such as {EXAMPLE}")
    # A column of structs has every name in every row.
    return {
        name: _piece(piece, name, where)
        for name, piece in value.items()
        if piece is not None and not _is_gap(piece, ())
    }


def _piece(value: Any, name: str, where: str) -> Piece:
    if isinstance(value, str) and value:
        return value
    if isinstance(value, list | tuple) and len(value) == 2:
        first, end = map(token_id, value)
        if first is not None and end is not None:
            return first, end
    raise PromptError(
        f"{where}: the span {name!r} is {kind_of(value)}; give words of the clean prompt, or [first, end) as two "
        "numbers from 0"
    )


def _notes(row: Row, names: tuple[str, ...], where: str) -> Mapping[str, Any]:
    """What else a row says of its pair, as plain data; gaps are left out."""
    notes = {
        name: value for name in names if (value := row.get(name)) is not None and not _is_gap(value, ("",))
    }
    try:
        text = json.dumps(notes, allow_nan=False)
    except (TypeError, ValueError):
        notes = {name: str(value) for name, value in notes.items()}
        text = json.dumps(notes)
    if len(text) > MOST_LETTERS:
        raise PromptError(
            f"{where}: notes of {len(text):,} letters, over {MOST_LETTERS:,}; remove the columns"
        )
    return notes
