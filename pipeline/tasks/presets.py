"""Tables of others as prompt pairs: which column is which, in the config's words or as a collection has it.

Knows mappings of columns, and the conventions of EAP-IG's CSV files, auto-circuit's JSON and MIB's records, each by a
name. Does not know file formats, nor what a field may hold: a preset gives a row with this project's fields.

A path names a column, or a piece within one: `random_counterfactual.prompt`, `choices.0`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from pipeline.core.documents import suggest
from pipeline.core.errors import PromptError
from pipeline.tasks.cells import read_object, shortened
from pipeline.tasks.fields import SYNONYMS, Layout
from pipeline.tasks.reader import Row

MappedField = Literal["clean", "corrupted", "answers", "wrong_answers", "corrupted_answers", "spans"]
FIELDS: tuple[MappedField, ...] = get_args(MappedField)
SINGULAR, PLURAL = (" is", " was", " has"), (" are", " were", " have")

Columns = Mapping[Any, str]  # by field
_PAIR = "clean corrupted"


@dataclass(frozen=True)
class Preset:
    """A collection's convention: the columns by which it is known, what it reads, and a row's fields.

    `fields` takes a row, the column of corruptions ("" for the usual one) and the place that errors name.
    """

    name: str
    needs: frozenset[str]
    reads: str
    fields: Callable[[Row, str, str], Row]


def reading_problem(columns: Columns, preset: str | None) -> str | None:
    """What is wrong with a mapping or a preset's name, or None."""
    for field in columns:
        if field not in FIELDS:
            return f"columns: unknown field {field!r}{suggest(field, FIELDS)}"
    if preset is None:
        return None
    if preset not in PRESETS:
        return f"preset: unknown preset {preset!r}{suggest(preset, PRESETS)}"
    return "preset and columns both say which column is which; keep one" if columns else None


def mapped(row: Row, columns: Columns, where: str) -> Row:
    """The row with the fields that `columns` names; columns that are no part of one stay."""
    found = {field: _at(row, path, field, where) for field, path in columns.items()}
    used = {_column(row, path) for path in columns.values()}
    return {name: value for name, value in row.items() if name not in used} | found


def preset_row(preset: Preset, row: Row, corrupted_field: str, where: str) -> Row:
    """The row in this project's fields, and its other columns as they are. PromptError for what is missing."""
    if missing := sorted(preset.needs - row.keys()):
        raise PromptError(
            f"{where}: preset {preset.name} reads {preset.reads}, and there is no column {missing[0]!r}; "
            f"{hint(row) or 'say which column is which with columns: {clean: NAME, ...}'}"
        )
    chosen = "" if corrupted_field == "corrupted" else corrupted_field
    given = preset.fields(row, chosen, where)
    used = {*preset.needs, *FIELDS, chosen}
    return {name: value for name, value in row.items() if name not in used} | given


def layout_of_mapped(names: Sequence[str], columns: Columns, corrupted_field: str) -> Layout:
    """What the columns of such a row are: nothing is guessed, so that any other is a note."""
    have = set(names)

    def there(field: MappedField) -> tuple[str, ...]:
        usual = (
            SYNONYMS[field] if field != "corrupted" or corrupted_field == "corrupted" else (corrupted_field,)
        )
        return (field,) if field in columns else tuple(name for name in usual if name in have)

    known = (there("corrupted"), there("answers"), there("wrong_answers"))
    others = there("corrupted_answers")
    used = {"clean", "spans", *others, *(name for group in known for name in group)}
    notes = tuple(name for name in names if name not in used and name)
    return Layout(*known, notes=notes, corrupted_answers=others)


def hint(names: Sequence[str] | Row) -> str:
    """What would read a table with these columns: a preset, a mapping, or nothing that is known ("")."""
    have = set(names)
    if "clean" in have and have & {*SYNONYMS["corrupted"]} and have & {*SYNONYMS["answers"]}:
        return ""
    fitting = [preset.name for preset in PRESETS.values() if preset.needs <= have]
    if fitting:
        return f"or read it with preset: {fitting[-1]}"
    return "or say which column is which with columns: {clean: NAME, corrupted: NAME, answers: NAME}"


# --- pieces ------------------------------------------------------------------------------------------------


def _column(row: Row, path: str) -> str:
    """The column that a path begins with: the longest name that fits, for names may hold points."""
    parts = path.split(".")
    for n in range(len(parts), 0, -1):
        if (name := ".".join(parts[:n])) in row:
            return name
    return parts[0]


def _at(row: Row, path: str, field: str, where: str) -> Any:
    column = _column(row, path)
    if column not in row:
        names = ", ".join(map(str, list(row)[:8]))
        raise PromptError(f"{where}: columns: {field}: there is no column {column!r}; name one of {names}")
    return _within(row[column], [part for part in path[len(column) + 1 :].split(".") if part], path, where)


def _within(value: Any, parts: Sequence[str], path: str, where: str) -> Any:
    """The piece of a value that is an object, a list, or one of these as text."""
    for part in parts:
        if isinstance(value, str):
            value = read_object(value)
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, list | tuple) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            what = (
                f"{', '.join(map(str, value))}"[:100] if isinstance(value, Mapping) else shortened(str(value))
            )
            raise PromptError(
                f"{where}: there is no {part!r} in {path!r}, which has {what}; write another path"
            )
    return value


def _preset(name: str, needs: str, reads: str, fields: Callable[[Row, str, str], Row]) -> Preset:
    return Preset(name, frozenset(needs.split()), reads, fields)


# --- EAP-IG ------------------------------------------------------------------------------------------------


def _prompts(row: Row, chosen: str, where: str) -> Row:
    return {"clean": row["clean"], "corrupted": _corrupted(row, chosen or "corrupted", where)}


def _ids(name: str, right: str, wrong: str, reads: str) -> Preset:
    """A collection whose columns hold token ids."""

    def fields(row: Row, chosen: str, where: str) -> Row:
        return _prompts(row, chosen, where) | {"correct_idx": row[right], "incorrect_idx": row[wrong]}

    return _preset(name, f"{_PAIR} {right} {wrong}", reads, fields)


def _corrupted(row: Row, column: str, where: str) -> Any:
    if column not in row:
        raise PromptError(f"{where}: there is no column {column!r}; name another corrupted_field")
    return row[column]


def _greater_than(name: str, column: str, reads: str) -> Preset:
    """A collection whose column holds a year's last two digits."""

    def fields(row: Row, chosen: str, where: str) -> Row:
        text = str(row[column]).strip().removesuffix(".0")
        if not text.isdecimal() or not 0 <= int(text) < 99:
            raise PromptError(
                f"{where}: {column!r} is {shortened(text)}; greater-than needs a year's last two digits, 00 to 98"
            )
        later, earlier = (
            [f"{y:02d}" for y in years] for years in (range(int(text) + 1, 100), range(int(text) + 1))
        )
        return _prompts(row, chosen, where) | {"answers": later, "wrong_answers": earlier}

    return _preset(name, f"{_PAIR} {column}", reads, fields)


def _agreement(row: Row, chosen: str, where: str) -> Row:
    plural = str(row["plural"]).strip().removesuffix(".0").lower()
    if plural not in ("0", "1", "true", "false"):
        raise PromptError(f"{where}: 'plural' is {shortened(plural)}; write 1 for a plural subject, else 0")
    right, wrong = (PLURAL, SINGULAR) if plural in ("1", "true") else (SINGULAR, PLURAL)
    return _prompts(row, chosen, where) | {"answers": list(right), "wrong_answers": list(wrong)}


# --- MIB ---------------------------------------------------------------------------------------------------


def _record(value: Any, name: str, where: str) -> Mapping[str, Any]:
    value = read_object(value) if isinstance(value, str) else value
    if not isinstance(value, Mapping) or value.get("prompt") is None:
        raise PromptError(
            f"{where}: {name!r} holds no counterfactual with a prompt; name another corrupted_field"
        )
    return value


def _chosen_label(row: Mapping[str, Any], where: str) -> tuple[str, list[str]]:
    """The right choice and all of them: names, or the letters of a question."""
    choices, key = row.get("choices"), row.get("answerKey")
    choices = read_object(choices) if isinstance(choices, str) else choices
    labels = choices.get("label") if isinstance(choices, Mapping) else choices
    labels = [str(label) for label in labels] if isinstance(labels, list | tuple) else []
    if str(key) in labels and not isinstance(key, int):
        return str(key), labels
    if str(key).isdecimal() and int(str(key)) < len(labels):
        return labels[int(str(key))], labels
    raise PromptError(
        f"{where}: 'answerKey' is {shortened(str(key))}, which is none of the choices {labels}; write one of them, or "
        "its number from 0"
    )


def _mib(of: str, usual: str, kind: Literal["names", "letters", "sums"], records: str) -> Preset:
    """A task of MIB whose records have a counterfactual; answers are names, letters of choices, or sums."""

    def fields(row: Row, chosen: str, where: str) -> Row:
        name = chosen or usual
        other = _record(_corrupted(row, name, where), name, where)
        if kind == "sums":
            right, wrong = str(row["label"]), [str(other.get("label"))]
        else:
            right, labels = _chosen_label(row, where)
            wrong = labels if kind == "names" else [_chosen_label(other, where)[0]]
        # An answer follows its prompt with one space between them.
        space = "" if str(row["prompt"]).endswith((" ", "\n")) else " "
        return {
            "clean": row["prompt"],
            "corrupted": other["prompt"],
            "answers": [space + right],
            "wrong_answers": [space + label for label in wrong if label != right],
        }

    asked = "label" if kind == "sums" else "choices answerKey"
    return _preset(f"mib_{of}", f"prompt {asked} {usual}", f"MIB's {records} records", fields)


def _as_it_is(row: Row, chosen: str, where: str) -> Row:
    found = {name: row[name] for name in ("clean", "answers", "wrong_answers") if name in row}
    return found | {"corrupted": _corrupted(row, chosen or "corrupt", where)}


# Of several that fit, the last is offered.
PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        _ids("eap_ig_ioi", "correct_idx", "incorrect_idx", "EAP-IG's ioi.csv and colored-objects.csv"),
        _greater_than("eap_ig_greater_than", "label", "EAP-IG's greater_than_data.csv"),
        _greater_than("eap_ig_greater_than_idx", "correct_idx", "EAP-IG's greater-than.csv"),
        _ids("eap_ig_hypernymy", "answers_idx", "corrupted_answers_idx", "EAP-IG's hypernymy.csv"),
        _ids("eap_ig_fact_retrieval", "country_idx", "corrupted_country_idx", "EAP-IG's fact-retrieval.csv"),
        _ids(
            "eap_ig_country_capital", "capital_idx", "corrupted_capital_idx", "EAP-IG's country-capital.csv"
        ),
        _ids("eap_ig_gender", "clean_answer_idx", "corrupted_answer_idx", "EAP-IG's gender-bias.csv"),
        _preset("eap_ig_sva", f"{_PAIR} plural", "EAP-IG's sva.csv", _agreement),
        _preset(
            "auto_circuit", "clean corrupt answers", "the prompts of auto-circuit's JSON files", _as_it_is
        ),
        _mib("ioi", "s2_io_flip_counterfactual", "names", "ioi"),
        _mib("arithmetic", "random_counterfactual", "sums", "arithmetic"),
        _mib("arc", "symbol_counterfactual", "letters", "ARC"),
        _mib("mcqa", "symbol_counterfactual", "letters", "copycolors_mcqa"),
    )
}
