"""Fails the test that leaves the process changed which all tests of a worker share. A plugin of pytest.

Knows Python, the kernel's account of this process, and torch and transformers once they are imported. What a fixture
of a module or of the session brings about may stay as long as the fixture. Random numbers begin anew in every test.
"""

import gc
import locale
import logging
import os
import random
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

State = dict[str, Any]  # by a name to be read in a failure
ABSENT = "absent"
SCOPES = ("function", "class", "module", "package", "session")
GUARD_SECONDS = (
    600.0  # only against a hang: a thread that is about to end is waited for, however slow the machine
)

# Set while a library is imported, or by pytest itself.
ENVIRONMENT = {
    "HF_HUB_DISABLE_TELEMETRY",
    "PYTEST_CURRENT_TEST",
    "RAY_CLIENT_MODE",
    "TORCHINDUCTOR_CACHE_DIR",
}
OURS = {"tests", "pipeline", "flows"}
KERNEL = ("SigBlk", "SigIgn", "Umask")  # lines of /proc/thread-self/status

_watching: dict[str, State] = {}  # what is compared with at the end, by the scope of who watches


@pytest.fixture(scope="module", autouse=True)
def _left_as_found_by_module() -> Iterator[None]:
    yield from _left_as_found("module")


@pytest.fixture(autouse=True)
def _left_as_found_by_test() -> Iterator[None]:
    yield from _left_as_found("function")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    seed()


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef) -> Iterator[None]:
    """A fixture that outlives the test in which it is first asked for changes nothing behind that test's back."""
    narrower = [_watching[scope] for scope in SCOPES[: SCOPES.index(fixturedef.scope)] if scope in _watching]
    if fixturedef.scope == "function" or not narrower:
        return (yield)
    seed()
    before = state()
    try:
        return (yield)
    finally:
        meant = changes(before, state())
        for watched in narrower:
            adopt(watched, meant)
        seed()


def _left_as_found(scope: str) -> Iterator[None]:
    _watching[scope] = state()
    yield
    left = left_behind(_watching.pop(scope))
    if left:
        pytest.fail("the process was left changed: " + "; ".join(left), pytrace=False)


def may_stay(pid: int) -> None:
    """For a test that adds a process to what a wider fixture ends."""
    for watched in _watching.values():
        watched[f"process {pid}"] = pid


# --- what is compared ----------------------------------------------------------------------------------------


def seed() -> None:
    """The generators that a whole process shares, at the same place before every test."""
    random.seed(0)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(0)
    if torch := sys.modules.get("torch"):
        torch.default_generator.manual_seed(0)  # torch.manual_seed looks for accelerators each time


def state() -> State:
    """Everything that is watched. Threads and processes are there by number."""
    found: State = {
        "working directory": os.getcwd(),  # noqa: PTH109 - once before and after every test
        "locale": locale.setlocale(locale.LC_ALL),
        "sys.path": tuple(path for path in sys.path if "site-packages" not in path),
        "sys.argv": tuple(sys.argv),
        "sys.excepthook": _of_tests(sys.excepthook),
        "sys.unraisablehook": sys.unraisablehook,
        "threading.excepthook": threading.excepthook,
        "recursion limit": sys.getrecursionlimit(),
        "garbage collection": gc.isenabled(),
        "socket timeout": socket.getdefaulttimeout(),
        "logging.disable": logging.root.manager.disable,
        "root log level": logging.root.level,
        "warnings.showwarning": warnings.showwarning,
    }
    found |= {f"importer {type(one).__name__} {id(one)}": one for one in sys.meta_path}
    found |= {f"environment {name}": value for name, value in os.environ.items() if name not in ENVIRONMENT}
    found |= {f"handler of {number.name}": signal.getsignal(number) for number in signal.Signals}
    found |= {f"thread {thread.name}": thread for thread in threading.enumerate() if not _is_library(thread)}
    found |= {f"process {pid}": pid for pid in children()}
    return found | _kernel() | _limits() | _torch() | _attention()


def changes(before: State, after: State) -> State:
    """Keys whose value is another, with the value of `after`; what has gone is there as ABSENT."""
    keys = dict.fromkeys([*before, *after])
    return {key: after.get(key, ABSENT) for key in keys if before.get(key, ABSENT) != after.get(key, ABSENT)}


def adopt(into: State, meant: State) -> None:
    """Takes changes that are meant to stay into the state that is compared with."""
    for key, value in meant.items():
        if value is ABSENT:
            into.pop(key, None)
        else:
            into[key] = value


def left_behind(before: State) -> list[str]:
    """What has changed since `before`, in words. Threads that end by themselves are waited for."""
    for new in changes(before, state()).values():
        if isinstance(new, threading.Thread):
            new.join(GUARD_SECONDS)
    return [
        f"{key} was {before.get(key, ABSENT)!r} and is {value!r}"
        for key, value in changes(before, state()).items()
        if not _may(key, value)
    ]


def children() -> set[int]:
    """Processes that this one has started and that are there, be it as zombies."""
    try:
        listed = [path.read_text() for path in Path("/proc/self/task").glob("*/children")]
    except OSError:  # a thread has ended meanwhile
        return children()
    if listed:
        return {int(pid) for text in listed for pid in text.split()}
    import psutil

    return {child.pid for child in psutil.Process().children()}


# --- details -----------------------------------------------------------------------------------------------


def _may(key: str, value: Any) -> bool:
    kind = key.partition(" ")[0]
    if kind in ("thread", "process"):
        return value is ABSENT  # a wider fixture's may end
    if kind in ("importer", "attention"):  # what a package adds while it is imported
        module = getattr(value, "__module__", None) or type(value).__module__
        return value is not ABSENT and not module.startswith("tests")
    return False


def _of_tests(hook: Callable[..., Any]) -> Callable[..., Any] | None:
    """The hook unless it is a library's: Ray sets one when it is imported, and typer whenever an app is called."""
    return hook if hook.__module__.startswith("tests") else None


def _is_library(thread: threading.Thread) -> bool:
    """Whether a library has started it for itself: such a thread may last as long as the process, as those of Prefect,
    Ray and pytest-timeout do. Of a pool the library does not know who asked for it, so that it is watched."""
    runs = getattr(thread, "_target", None) or getattr(thread, "function", None)
    made_by = {type(thread).__module__, getattr(runs, "__module__", None) or ""} - {"threading"}
    names = {module.partition(".")[0] for module in made_by} - {""}
    return bool(names) and not names & {*OURS, "concurrent"}


def _kernel() -> State:
    """What Python does not know: signals that native code has ignored, the mask of this thread, the umask."""
    status = Path("/proc/thread-self/status")
    if not status.is_file():
        return {}
    lines = (line.partition(":\t") for line in status.read_text().splitlines())
    return {f"kernel's {name}": value for name, _, value in lines if name in KERNEL}


def _limits() -> State:
    try:
        import resource
    except ImportError:
        return {}
    names = [name for name in dir(resource) if name.startswith("RLIMIT_")]
    return {name: resource.getrlimit(getattr(resource, name)) for name in names}


def _torch() -> State:
    torch = sys.modules.get("torch")
    if torch is None:
        return {}
    return {
        "torch's dtype": torch.get_default_dtype(),
        "torch's threads": torch.get_num_threads(),
        "torch's grad mode": torch.is_grad_enabled(),
        "torch's inference mode": torch.is_inference_mode_enabled(),
        "torch's determinism": torch.are_deterministic_algorithms_enabled(),
        "torch's detection of anomalies": torch.is_anomaly_enabled(),
        "torch's precision of products": torch.get_float32_matmul_precision(),
    }


def _attention() -> State:
    """What transformers' models attend with, by name."""
    module = sys.modules.get("transformers.modeling_utils")
    known = module.AttentionInterface._global_mapping if module else {}
    return {f"attention {name}": function for name, function in known.items()}
