"""A test that leaves the process changed is seen, whatever it changes; so is which cases of a grid are fast."""

import itertools
import locale
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests import diagonal, unchanged


def sets(module, name, value):
    """A change of an attribute, and how it is undone."""
    before = getattr(module, name)

    def undo():
        setattr(module, name, before)

    return lambda: setattr(module, name, value) or undo


def handler():
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    return lambda: signal.signal(signal.SIGUSR1, before)


def mask():
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    return lambda: signal.pthread_sigmask(signal.SIG_SETMASK, before)


def folder():
    before = os.getcwd()  # noqa: PTH109
    os.chdir("/")
    return lambda: os.chdir(before)


def umask():
    before = os.umask(0o077)
    return lambda: os.umask(before)


def variable():
    os.environ["CIRCUITS_LEFT_BEHIND"] = "1"
    return lambda: os.environ.pop("CIRCUITS_LEFT_BEHIND")


def variable_gone():
    path = os.environ.pop("PATH")
    return lambda: os.environ.update(PATH=path)


def thread():
    done = threading.Event()
    new = threading.Thread(target=done.wait, daemon=True)
    new.start()
    return lambda: done.set() or new.join()


def process():
    new = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    return new.communicate


def zombie():
    new = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, new.pid, os.WEXITED | os.WNOWAIT)
    return new.wait


def importer():
    class Finder:
        pass

    Finder.__module__ = "tests.test_unchanged"
    sys.meta_path.append(Finder())
    return sys.meta_path.pop


def attention():
    from transformers.modeling_utils import AttentionInterface

    AttentionInterface.register("left", attention)
    return lambda: AttentionInterface._global_mapping.pop("left")


def level():
    before = logging.root.level
    logging.root.setLevel(5)
    return lambda: logging.root.setLevel(before)


def language():
    before = locale.setlocale(locale.LC_ALL)
    other = "C" if before != "C" else "C.UTF-8"
    locale.setlocale(locale.LC_ALL, other)
    return lambda: locale.setlocale(locale.LC_ALL, before)


def limit():
    import resource

    before = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, before[1]) if before[0] else before)
    recursion = sys.getrecursionlimit()
    sys.setrecursionlimit(recursion + 1)

    def undo():
        resource.setrlimit(resource.RLIMIT_CORE, before)
        sys.setrecursionlimit(recursion)

    return undo


def dtype():
    torch.set_default_dtype(torch.float64)
    return lambda: torch.set_default_dtype(torch.float32)


def threads():
    torch.set_num_threads(2)
    return lambda: torch.set_num_threads(1)


def grad():
    torch.set_grad_enabled(False)
    return lambda: torch.set_grad_enabled(True)


def timeout():
    socket.setdefaulttimeout(7)
    return lambda: socket.setdefaulttimeout(None)


@pytest.mark.parametrize(
    "change",
    [
        handler, mask, folder, umask, variable, variable_gone, thread, process, zombie, importer, attention, level,
        language, limit, dtype, threads, grad, timeout,
        sets(sys, "argv", ["other"]), sets(sys, "path", ["/left", *sys.path]),
        sets(warnings, "showwarning", print), sets(threading, "excepthook", print),
    ],
)  # fmt: skip
def test_whatever_of_the_process_is_left_changed_is_seen(change, monkeypatch):
    monkeypatch.setattr(unchanged, "GUARD_SECONDS", 0.0)  # a thread that would not end
    before = unchanged.state()
    undo = change()
    try:
        assert unchanged.left_behind(before)
    finally:
        undo()
    assert unchanged.left_behind(before) == []


def test_a_thread_that_ends_by_itself_is_waited_for():
    before, ending = unchanged.state(), threading.Event()
    threading.Thread(target=ending.wait).start()
    threading.Timer(0.0, ending.set).start()
    assert unchanged.left_behind(before) == []


def test_random_numbers_do_not_depend_on_what_was_drawn_before():
    def drawn():
        unchanged.seed()
        return random.random(), np.random.random(), float(torch.rand(()))  # noqa: NPY002

    assert drawn() == drawn()


@pytest.mark.parametrize("size", [1, 8, 9, 100])
def test_of_a_grid_a_few_cases_that_are_far_apart_are_fast(size):
    fast = diagonal.one_of(list(range(size)), "test_name")
    assert 0 < len(fast) <= diagonal.FAST
    assert len(fast) >= min(size, diagonal.FAST // 2)
    assert len({b - a for a, b in itertools.pairwise(fast)}) <= 1


def test_of_a_grid_every_value_of_every_parameter_has_a_fast_case():
    def cases(**sides):
        rows = itertools.product(*sides.values())
        return [
            SimpleNamespace(callspec=SimpleNamespace(params=dict(zip(sides, row, strict=True))))
            for row in rows
        ]

    grid = cases(name="abcd", verb=["x", "y"], place=[0])
    fast = [item.callspec.params for item in diagonal.diagonal(grid)]
    assert len(fast) == 4
    assert {params["name"] for params in fast} == {*"abcd"}
    assert {params["verb"] for params in fast} == {"x", "y"}
    for no_grid in (grid[:-1], cases(name="abc"), grid[:1]):
        assert diagonal.diagonal(no_grid) == no_grid
