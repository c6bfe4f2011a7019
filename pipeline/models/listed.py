"""transformers' list of all models, which it makes by reading their files, made without a look at every line of them.

Knows where transformers looks for the names that a file exports: last in it. Does not know models.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

_LISTS, _READS = "transformers.utils.import_utils", "fetch__all__"


@contextmanager
def quickly_listed() -> Iterator[None]:
    """Has transformers, if it is imported within for the first time, find the same names in a tenth of the time."""
    finder = _Once(_LISTS, _shorten)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


def _shorten(lists: ModuleType) -> None:
    if (read := getattr(lists, _READS, None)) is not None:
        setattr(lists, _READS, partial(_from_last, read))


def _from_last(read: Callable[[str], Any], text: str) -> Any:
    """What `read` finds, which takes the last line that begins so: no line before is of any use to it."""
    return read(text[text.rfind("\n__all__") + 1 :])


class _Once(MetaPathFinder):
    """Has `then` be told of one module as soon as it has been run."""

    def __init__(self, name: str, then: Callable[[ModuleType], None]) -> None:
        self._name, self._then = name, then

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> Any:
        if name != self._name:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Then(spec, spec.loader, self._then)
        return spec


class _Then(Loader):
    """In place of a module's loader until it is run."""

    def __init__(self, spec: ModuleSpec, loader: Loader, then: Callable[[ModuleType], None]) -> None:
        self._spec, self._loader, self._then = spec, loader, then

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._spec.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        self._then(module)
