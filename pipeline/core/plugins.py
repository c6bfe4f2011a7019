"""What installed packages add: methods, tasks, metrics, ablations and evaluations, found by their entry points.

Knows the names of groups, and that nothing is loaded that nobody has named. Does not know what is loaded, but for its
kind. A package says in its pyproject.toml, for the group `circuits.methods`:

    [project.entry-points."circuits.methods"]
    random_edges = "my_package.random_edges:RandomEdges"
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Annotated, Any, TypeVar, Union

from pydantic import BaseModel, Field, GetCoreSchemaHandler, SerializeAsAny, ValidationError, WrapValidator
from pydantic_core import CoreSchema

from pipeline.core.documents import explain
from pipeline.core.errors import ConfigError

T = TypeVar("T")

METHODS, TASKS = "circuits.methods", "circuits.tasks"
METRICS, ABLATIONS = "circuits.metrics", "circuits.ablations"
EVALUATIONS = "circuits.evaluations"
GROUPS = (METHODS, TASKS, METRICS, ABLATIONS, EVALUATIONS)


@cache
def installed(group: str) -> dict[str, EntryPoint]:
    """What packages add to a group, by name; nothing of it is loaded. Of two with one name the first is taken."""
    found: dict[str, EntryPoint] = {}
    for point in sorted(entry_points(group=group), key=lambda point: (point.name, package_of(point))):
        found.setdefault(point.name, point)
    return found


def package_of(point: EntryPoint) -> str:
    """Name and version of the package that adds it."""
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else point.module


def added_by(group: str, name: str) -> str | None:
    """The package that adds a name to a group, or None."""
    point = installed(group).get(name)
    return None if point is None else package_of(point)


@cache
def load(group: str, name: str) -> Any:
    """What a package adds under a name, or None where none does. ConfigError when it cannot be imported."""
    point = installed(group).get(name)
    if point is None:
        return None
    try:
        return point.load()
    except Exception as error:  # whatever their module raises
        raise ConfigError(
            f"{name}: the package {package_of(point)} cannot be loaded here: {type(error).__name__}: {error}"
        ) from error


def load_a(kind: type[T], group: str, name: str) -> T | None:
    """The object of that kind which a package adds, or None. ConfigError when it is of another kind."""
    found = load(group, name)
    if found is not None and not isinstance(found, kind):
        raise ConfigError(f"{name}: {added_by(group, name)} adds no {kind.__name__} under this name")
    return found


@dataclass(frozen=True)
class OneOf:
    """Says of a config's entry, as `Annotated[Method, OneOf(METHODS, group)]`, that it is of the known kinds, told
    apart by `name`, or of a kind that an installed package adds to the group."""

    known: tuple[type[BaseModel], ...]
    group: str

    def __get_pydantic_core_schema__(
        self, base: type[BaseModel], handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return handler.generate_schema(_open_union(self.known, self.group, base))


def _open_union(known: tuple[type[BaseModel], ...], group: str, base: type[BaseModel]) -> Any:
    """A pydantic type for one entry. A package is loaded when an entry names what it adds."""

    def read(value: Any, handler: Callable[[Any], Any]) -> Any:
        if isinstance(value, base):
            return value
        name = value.get("name") if isinstance(value, dict) else None
        if not isinstance(name, str) or name in names or (cls := load(group, name)) is None:
            return handler(value)
        if not (isinstance(cls, type) and issubclass(cls, base)):
            raise ConfigError(f"{name}: {added_by(group, name)} adds no {base.__name__} under this name")
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            raise ConfigError(f"{group.rpartition('.')[2]}, {name}: {explain(error, value, cls)}") from None

    names = {cls.model_fields["name"].default for cls in known}
    union: Any = Annotated[Union.__getitem__(known), Field(discriminator="name")]
    return Annotated[SerializeAsAny[union], WrapValidator(read)]  # type: ignore[misc]
