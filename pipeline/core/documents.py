"""YAML as a person writes it and JSON as anyone may, to plain data; `key.0.key=value` overrides; errors of
pydantic in one line.

Knows the syntax and the shape of input. Does not know what any key means.
"""

import copy
import difflib
import json
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, get_args, runtime_checkable

import yaml
from pydantic import BaseModel, ValidationError

from pipeline.core.errors import ConfigError, StorageError
from pipeline.core.spelling import meant

MAX_BYTES = 500_000
MAX_VALUES = 100_000  # counted after aliases are followed: ten short lines of them can stand for billions


class _Loader(yaml.SafeLoader):
    """The safe loader, which also refuses a key given twice (YAML forbids it; PyYAML takes the last), and merges
    (`<<`): PyYAML copies what they name, so that thirty short lines of them fill any memory."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(
                    None, None, "'<<' is not read here; write the keys out", key.start_mark
                )
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} is given twice", key.start_mark
                )
            if isinstance(key, yaml.ScalarNode):
                seen.add(key.value)
        return super().construct_mapping(node, deep)


@runtime_checkable
class Source(Protocol):
    """A file, wherever it lies."""

    def open(self, mode: Any) -> Any: ...


def read_yaml(path: str | Source) -> dict[str, Any]:
    """The mapping in a YAML file; ConfigError naming file and line when it is none, too big or malformed."""
    path = Path(path) if isinstance(path, str) else path
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)  # a device has no size, and no end either
        if len(content) > MAX_BYTES:
            raise _too_large(str(path))
        text = content.decode("utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file{looked_in(path)}; check the path of the config") from None
    except StorageError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise ConfigError(f"{path}: cannot be read ({reason}); give a YAML file") from None
    return parse_mapping(text, str(path))


def looked_in(path: object) -> str:
    """` in /the/folder` for a path that is relative to the folder of the process; nothing for any other."""
    return "" if not isinstance(path, str | Path) or Path(path).is_absolute() else f" in {Path.cwd()}"


def parse_mapping(text: str, where: str) -> dict[str, Any]:
    """The mapping that YAML text holds; ConfigError naming `where` when it holds none."""
    value = parse_yaml(text, where)
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: holds no keys; a config starts with lines such as 'name: my-run'")
    return value


def parse_yaml(text: str, where: str) -> Any:
    """The value of YAML text; ConfigError naming `where` and the line."""
    if len(text) > MAX_BYTES:
        raise _too_large(where)
    try:
        value = _loaded(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "malformed"
        raise ConfigError(f"{where}{line}: not valid YAML ({_one_line(problem)}); mend that line") from None
    except (RecursionError, ValueError) as error:  # nested too deeply; a date such as 2024-99-99
        problem = "nested too deeply" if isinstance(error, RecursionError) else _one_line(str(error))
        raise ConfigError(f"{where}: not valid YAML ({problem}); mend it") from None
    _refuse_too_many(value, where)
    return value


def _loaded(text: str) -> Any:
    """A value of one's own. A run reads its own run.yaml at several places, and PyYAML is slow."""
    return copy.deepcopy(_parsed(text))


@lru_cache(maxsize=4)
def _parsed(text: str) -> Any:
    return yaml.load(text, Loader=_Loader)  # noqa: S506 - a subclass of SafeLoader


def _too_large(where: str) -> ConfigError:
    return ConfigError(f"{where}: over {MAX_BYTES:,} bytes; a config is a page of YAML, so check the path")


def _refuse_too_many(value: Any, where: str) -> None:
    """Aliases that expand without end, or to more than anyone would write, are refused at once."""
    pending, count = [value], 0
    while pending:
        current = pending.pop()
        count += 1
        if count > MAX_VALUES:
            raise ConfigError(f"{where}: over {MAX_VALUES:,} values once aliases are followed; write it out")
        if isinstance(current, dict):
            pending.extend(current.values())
        elif isinstance(current, list):
            pending.extend(current)


def parse_json(text: str, *, nan: bool = False) -> Any:
    """The value of JSON text. ValueError for whatever is none, NaN and infinities (unless `nan` admits them), whole
    numbers of more digits than Python reads, a key given twice, and what is nested too deeply to be read."""
    try:
        return (_JSON_WITH_NAN if nan else _JSON).decode(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except json.JSONDecodeError:
        raise
    except ValueError as error:
        if "integer string conversion" in str(error):  # Python's own words name a switch of the interpreter
            raise ValueError("a number of thousands of digits") from None
        raise


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is no number")


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice[:100]!r} is given twice")
    return found


_JSON = json.JSONDecoder(parse_constant=_no_number, object_pairs_hook=_no_key_twice)
_JSON_WITH_NAN = json.JSONDecoder(object_pairs_hook=_no_key_twice)


def apply_overrides(mapping: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of `mapping` with every `methods.0.steps=10` applied; values are YAML.

    A section that is not there is made; an entry of a list must exist.
    """
    result = copy.deepcopy(mapping)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not all(parts := key.strip().split(".")):
            raise ConfigError(f"--set {override}: write it as key=value, for instance methods.0.steps=10")
        holder: Any = result
        for depth, part in enumerate(parts):
            place = _place(holder, part, f"--set {override}", ".".join(parts[:depth]) or "the config")
            if depth == len(parts) - 1:
                holder[place] = parse_yaml(text, f"--set {override}")
            else:
                if isinstance(holder, dict) and holder.get(place) is None:
                    holder[place] = {}
                holder = holder[place]
    return result


def _place(holder: Any, part: str, where: str, path: str) -> str | int:
    if isinstance(holder, dict):
        return part
    if isinstance(holder, list):
        if part.isdecimal() and int(part) < len(holder):
            return int(part)
        raise ConfigError(f"{where}: {path} has entries 0 to {len(holder) - 1}, not {part!r}")
    raise ConfigError(f"{where}: {path} is a single value and has no {part!r}")


def suggest(name: object, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` where something known is close or called so elsewhere, and what is known."""
    known = sorted(known)
    also = meant(name, known)
    close = [also] if also else difflib.get_close_matches(str(name), known, n=1)
    return (f"; did you mean {close[0]!r}?" if close else ";") + f" known: {', '.join(known)}"


_COMPLAINTS = 3  # more would be no line any more


def explain(error: ValidationError, data: Any, model: type[BaseModel]) -> str:
    """Pydantic's complaints about `data` in one line with the keys' paths; the first few, and how many more."""
    complaints = error.errors(include_url=False)
    # a list that is too short because its entries are refused is no mistake of its own
    blamed = [one["loc"] for one in complaints]
    complaints = [
        one
        for one in complaints
        if one["type"] != "too_short"
        or not any(loc != one["loc"] and loc[: len(one["loc"])] == one["loc"] for loc in blamed)
    ]
    lines = list(dict.fromkeys(_complaint(one, data, model) for one in complaints))
    more = len(lines) - _COMPLAINTS
    return "; ".join(lines[:_COMPLAINTS]) + (f" (and {more} more)" if more > 0 else "")


def _complaint(first: Any, data: Any, model: type[BaseModel]) -> str:
    """One complaint in words."""
    key, tags = _key_path(first["loc"], data)
    got = _shorten(first["input"])
    match first["type"]:
        case "extra_forbidden":
            line = f"unknown key {_shorten(key)}{suggest(first['loc'][-1], _keys_at(model, tags))}"
        case "union_tag_invalid":
            tag, known = first["ctx"]["tag"], first["ctx"]["expected_tags"].replace("'", "").split(", ")
            foreign = "; Python from elsewhere cannot be named here" if ":" in tag else ""
            line = f"{key}.name: unknown name {_shorten(tag)}{foreign}{suggest(tag, known)}"
            if not foreign and "did you mean" not in line:
                line += "; what a package adds is known where that is installed"
        case "union_tag_not_found":
            line = f"{key}: needs a name, as in {{name: ...}} (got {got})"
        case "missing":
            line = f"{key} is missing; add it"
        case "literal_error":
            known = first["ctx"]["expected"].replace(" or ", ", ").replace("'", "").split(", ")
            line = f"{key}: {got} is not allowed{suggest(first['input'], known)}"
        case "string_type":
            line = f"{key}: {got} is no text; put it in quotes"
        case _:
            line = f"{key}: {_one_line(first['msg']).removeprefix('Value error, ')} (got {got})"
    return line


def _key_path(location: tuple[str | int, ...], data: Any) -> tuple[str, list[str | int]]:
    """`methods.1.steps` as the person wrote it, and the location with pydantic's union tags left in."""
    shown: list[str] = []
    for part in location:
        if isinstance(data, dict) and part not in data and data.get("name") == part:
            continue  # pydantic's way to say which member of a union it took
        shown.append(str(part))
        if isinstance(data, dict):
            data = data.get(part)
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            data = data[part]
    return ".".join(shown) or "the config", list(location)


def _keys_at(model: type[BaseModel], location: list[str | int]) -> set[str]:
    """The keys that are allowed beside the last part of a location."""
    here = [model]
    for part in location[:-1]:
        if isinstance(part, int):
            continue
        if tagged := [cls for cls in here if part in _tags(cls)]:
            here = tagged
            continue
        fields = [f for cls in here for name, f in cls.model_fields.items() if part in (name, f.alias)]
        here = [cls for field in fields for cls in _models_in(field.annotation)]
    return {field.alias or name for cls in here for name, field in cls.model_fields.items()}


def _tags(model: type[BaseModel]) -> tuple[Any, ...]:
    field = model.model_fields.get("name")
    return get_args(field.annotation) if field else ()


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    arguments = get_args(annotation)
    for one_of in (getattr(argument, "known", None) for argument in arguments):  # `plugins.OneOf`
        if isinstance(one_of, tuple):
            return list(one_of)
    return [model for argument in arguments for model in _models_in(argument)]


def _shorten(value: Any) -> str:
    text = _one_line(repr(value))
    return text if len(text) <= 60 else text[:57] + "..."


def _one_line(text: str) -> str:
    return " ".join(text.split())
