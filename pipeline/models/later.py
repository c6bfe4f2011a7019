"""Packages that are imported in earnest when something of them is asked for, though others have imported them by then.

Knows Python's imports, and what torch's compiler is told of functions by decorators. Does not know who imports them.
Whoever asks finds what there would have been: only the moment is another.
"""

import sys
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

_swap = threading.Lock()


class Later(ModuleType):
    """Stands in for a package: some modules of it can be imported, and whatever else is asked for imports the package
    itself, which then takes its place."""

    def __init__(self, spec: ModuleSpec, modules: Collection[str] | None) -> None:
        super().__init__(spec.name)
        self.__spec__, self.__file__ = spec, spec.origin
        self.__path__ = [*(spec.submodule_search_locations or ())]
        self._modules = modules  # by their names in the package; None are all

    def __getattr__(self, name: str) -> Any:
        return getattr(self.arrive(), name)

    @property
    def is_waiting(self) -> bool:
        """Whether the package has not been imported."""
        return sys.modules.get(self.__name__) is self

    def holds_up(self, name: str) -> bool:
        """Whether a module of this name wants its package first."""
        package, _, module = name.partition(f"{self.__name__}.")
        return not package and bool(module) and self._modules is not None and module not in self._modules

    def arrive(self) -> ModuleType:
        """The package, which has the modules that were imported before."""
        with _swap:
            if first := self.is_waiting:
                del sys.modules[self.__name__]
        package = import_module(self.__name__)
        if first:
            for name, module in [*vars(self).items()]:
                if isinstance(module, ModuleType):
                    setattr(package, name, module)
            self.arrived(package)
        return package

    def arrived(self, package: ModuleType) -> None:
        """The package has been imported."""


class Compiler(Later):
    """Stands in for torch's compiler, of which stock models use decorators alone: for functions that it is to leave
    as they are, or in one piece. While it is not there it leaves all as they are; it hears of them when it comes."""

    def __init__(self, spec: ModuleSpec, modules: Collection[str] | None) -> None:
        super().__init__(spec, modules)
        self._told: list[tuple[str, Callable[..., Any]]] = []

    def allow_in_graph(self, function: Callable[..., Any]) -> Callable[..., Any]:
        self._told.append(("allow_in_graph", function))
        return function

    def assume_constant_result(self, function: Callable[..., Any]) -> Callable[..., Any]:
        self._told.append(("assume_constant_result", function))
        return function

    def disable(self, function: Any = None, recursive: bool = True, **how: Any) -> Any:
        if function is None:
            return lambda decorated: self.disable(decorated, recursive, **how)
        left: list[Callable[..., Any]] = []

        @wraps(function)
        def alone(*args: Any, **options: Any) -> Any:
            if self.is_waiting:
                return function(*args, **options)
            if not left:
                left.append(self.arrive().disable(function, recursive, **how))
            return left[0](*args, **options)

        return alone

    def arrived(self, package: ModuleType) -> None:
        for name, function in self._told:
            getattr(package, name)(function)


def later(name: str, kind: type[Later] = Later, modules: Collection[str] | None = None) -> None:
    """Has a package wait until something of it is asked for, but for `modules` of it. One that is there already, or is
    none, stays as it is."""
    if name in sys.modules:
        return
    try:
        spec = find_spec(name)
    except (ImportError, ValueError):  # what it is a part of has none, or is none
        return
    if spec is None or not spec.submodule_search_locations:
        return
    sys.modules[name] = stand_in = kind(spec, modules)
    sys.meta_path.insert(0, _First(stand_in))


@contextmanager
def later_within(name: str) -> Iterator[None]:
    """Has a package wait for those alone who import it within: what they get imports it when they ask something of it.
    Whoever imports it afterwards, or a module of it meanwhile, gets the package itself, as ever."""
    later(name, modules=())
    try:
        yield
    finally:
        with _swap:
            if isinstance(sys.modules.get(name), Later):
                del sys.modules[name]


class _First(MetaPathFinder):
    """Sees to it that modules of a package which waits find it imported, as they would by themselves."""

    def __init__(self, stand_in: Later) -> None:
        self._stand_in = stand_in

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> Any:  # noqa: ARG002
        if not self._stand_in.holds_up(name) or not self._stand_in.is_waiting:
            return None
        self._stand_in.arrive()
        there = sys.modules.pop(name, None)  # or Python would execute it again; it enters it anew
        return None if there is None else ModuleSpec(name, _There(there))


class _There(Loader):
    """Of a module that its package has imported meanwhile."""

    def __init__(self, module: ModuleType) -> None:
        self._module, self._spec = module, module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:  # noqa: ARG002
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec
