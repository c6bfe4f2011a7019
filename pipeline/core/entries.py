"""What tasks and methods of a config have in common as plain data: how they are written down.

Knows fields and their defaults. Does not know what an entry is for.
"""

from collections.abc import Callable
from typing import Any, ClassVar

from pydantic import BaseModel, model_serializer


class Entry(BaseModel):
    """An entry of a config. The fields `later` of each class came after runs were made: they are written down only
    where they are set, so that runs that do not ask for them are what they were."""

    later: ClassVar[frozenset[str]] = frozenset()

    @model_serializer(mode="wrap")
    def _without_defaults(self, write: Callable[[Any], Any]) -> dict[str, Any]:
        data: dict[str, Any] = write(self)
        for field in {field for kind in type(self).__mro__ for field in vars(kind).get("later", ())}:
            if getattr(self, field) == type(self).model_fields[field].get_default(call_default_factory=True):
                data.pop(field, None)
        return data
