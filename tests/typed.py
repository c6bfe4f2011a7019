"""Types and shapes of what `pipeline` is called with and gives back are checked while the tests run.

Importing this installs the check for every module of `pipeline` that is imported later, in this process. A function is
looked at when it is first called, and its first calls of every test are checked: what is called thousands of times
there is called alike. Functions inside of others are made anew at each call of these, and left alone.
jaxtyping's own import hook checks them too, and all arguments twice: several times what is computed.
"""

import ast
import functools
import importlib.machinery
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import is_dataclass
from importlib.abc import MetaPathFinder
from types import FunctionType
from typing import Any, get_type_hints
from unittest.mock import patch

from beartype import BeartypeConf, beartype
from beartype.door import die_if_unbearable
from jaxtyping import jaxtyped

PACKAGE = "pipeline"
CHECK = BeartypeConf(is_pep484_tower=True, violation_type=TypeError)  # an int is a float
NAME = "__checked__"  # in the modules that are checked
FORM = "typed1"  # of the byte code, which Python keeps beside that of the plain module

CALLS = 3  # of one function in one test

_checking = True
_test = 0  # how many have begun


def begin() -> None:
    """Another test begins: the next calls of every function are checked."""
    global _test  # noqa: PLW0603
    _test += 1


@contextmanager
def unchecked() -> Iterator[None]:
    """Nothing is checked: where the same functions are checked elsewhere and the checks cost more than the rest."""
    global _checking  # noqa: PLW0603
    before, _checking = _checking, False
    try:
        yield
    finally:
        _checking = before


def checked(made: Any) -> Any:
    """The same function, or class with a generated __init__, that raises TypeError for what its annotations do not say.

    Names of lengths (`"prompt d_model"`) mean the same length wherever they stand in one signature.
    """
    if isinstance(made, type):
        if is_dataclass(made) and "__init__" in vars(made):
            made.__init__ = checked(made.__init__)
        return made
    strict: Callable[..., Any] | None = None
    left, test = CALLS, 0

    @functools.wraps(made)
    def asked(*args: Any, **kwargs: Any) -> Any:
        nonlocal strict, left, test
        if test != _test:
            left, test = CALLS, _test
        if not (left and _checking):
            return made(*args, **kwargs)
        left -= 1
        if strict is None:
            strict = _strict(made)
        return strict(*args, **kwargs)

    return asked


def _strict(function: FunctionType) -> Callable[..., Any]:
    copy = _spelled_out(function)
    check = _generator(copy) if inspect.isgeneratorfunction(function) else beartype(copy, conf=CHECK)
    if "jaxtyping" not in str(copy.__annotations__):
        return check

    def with_lengths(*args: Any, **kwargs: Any) -> Any:
        with jaxtyped("context"):
            return check(*args, **kwargs)

    return with_lengths


def _generator(function: FunctionType) -> Callable[..., Any]:
    """Of a generator the arguments: beartype would put one of its own around it, whose frame is another."""
    signature, hints = inspect.signature(function), function.__annotations__
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    single = {name for name, parameter in signature.parameters.items() if parameter.kind not in several}

    def strict(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs).arguments
        for name in single & given.keys() & hints.keys():
            die_if_unbearable(given[name], hints[name], conf=CHECK)
        return function(*args, **kwargs)

    return strict


def _spelled_out(function: FunctionType) -> FunctionType:
    """The function with types in place of their names, and with no type where what is named is not imported."""
    copy = FunctionType(
        function.__code__,
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    copy.__module__, copy.__qualname__ = function.__module__, function.__qualname__
    for name, hint in function.__annotations__.items():
        try:
            copy.__annotations__ |= get_type_hints(
                _Of({name: hint}), function.__globals__, include_extras=True
            )
        except NameError:
            continue
    return copy


class _Of:
    def __init__(self, annotations: dict[str, Any]) -> None:
        self.__annotations__ = annotations


class _Decorate(ast.NodeTransformer):
    """Functions are checked before all other decorators see them, classes after; what functions hold is left alone."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        node.decorator_list.append(_named(node))
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        node.decorator_list.insert(0, _named(node))
        return self.generic_visit(node)


def _named(node: ast.stmt) -> ast.Name:
    return ast.copy_location(ast.Name(NAME, ast.Load()), node)


class _Loader(importlib.machinery.SourceFileLoader):
    def source_to_code(self, data: Any, path: Any, *, _optimize: int = -1) -> Any:
        tree = _Decorate().visit(ast.parse(importlib.util.decode_source(data), path))
        return compile(tree, path, "exec", dont_inherit=True, optimize=_optimize)

    def get_code(self, fullname: str) -> Any:
        kept = functools.partial(importlib.util.cache_from_source, optimization=FORM)
        with patch("importlib._bootstrap_external.cache_from_source", kept):
            return super().get_code(fullname)

    def exec_module(self, module: Any) -> None:
        vars(module)[NAME] = checked
        super().exec_module(module)


class _Finder(MetaPathFinder):
    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        if fullname.partition(".")[0] != PACKAGE:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


if PACKAGE in sys.modules:
    raise ImportError(f"{PACKAGE} is imported before {__name__}, which would not check it")
sys.meta_path.insert(0, _Finder())
