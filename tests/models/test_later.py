"""Packages that wait are found by whoever asks, once, and as they would have been."""

import importlib
import sys
import threading
from pathlib import Path

import pytest

from pipeline.models.later import Compiler, later, later_within

PACKAGE = "circuits_waits"
FILES = {
    "__init__.py": "from . import first\nfrom .second import value\nrun = []\n",
    "alone.py": "of_alone = 1\n",
    "first.py": f"from {PACKAGE} import second\n",
    "second.py": f"import {PACKAGE}.third\nvalue = 2\n",
    "third.py": "of_third = 3\n",
}


@pytest.fixture
def executed(tmp_path, monkeypatch):
    """A package, whose files enter themselves here when they are run."""
    runs: list[str] = []
    monkeypatch.setattr(sys, "circuits_runs", runs, raising=False)
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    folder = Path(tmp_path) / PACKAGE
    folder.mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(f"import sys\nsys.circuits_runs.append('{name}')\n{text}")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield runs
    for name in [*sys.modules]:
        if name.partition(".")[0] == PACKAGE:
            del sys.modules[name]


def test_a_package_waits_until_something_of_it_is_asked_for(executed):
    later(PACKAGE)
    package = importlib.import_module(PACKAGE)
    assert package.__file__.endswith("__init__.py")
    assert executed == []
    assert package.value == 2
    assert sys.modules[PACKAGE] is not package
    assert sys.modules[PACKAGE].value == package.value
    assert sorted(executed) == ["__init__.py", "first.py", "second.py", "third.py"]


def test_modules_that_need_no_package_come_before_it_and_are_found_in_it(executed):
    later(PACKAGE, modules={"alone"})
    alone = importlib.import_module(f"{PACKAGE}.alone")
    assert executed == ["alone.py"]
    assert importlib.import_module(f"{PACKAGE}").value == 2
    assert sys.modules[PACKAGE].alone is alone
    assert executed.count("alone.py") == 1


@pytest.mark.parametrize("module", ["first", "second", "third"])
def test_every_other_module_finds_its_package_imported_and_is_run_once(executed, module):
    later(PACKAGE, modules={"alone"})
    found = importlib.import_module(f"{PACKAGE}.{module}")
    assert executed[0] == "__init__.py"
    assert len(executed) == len(set(executed)) == 4
    package = sys.modules[PACKAGE]
    assert getattr(package, module) is found is sys.modules[found.__name__]
    assert found.__spec__.origin == found.__file__
    assert importlib.reload(found) is found


def test_only_those_who_import_it_within_have_a_package_wait(executed):
    with later_within(PACKAGE):
        stand_in = importlib.import_module(PACKAGE)
    assert executed == []
    assert PACKAGE not in sys.modules
    package = importlib.import_module(PACKAGE)
    assert package is not stand_in
    assert stand_in.run is package.run
    assert len(executed) == len(set(executed)) == 4
    with later_within(PACKAGE):
        assert importlib.import_module(PACKAGE) is package
    assert sys.modules[PACKAGE] is package


def test_a_package_that_is_asked_within_stays(executed):
    with later_within(PACKAGE):
        assert importlib.import_module(PACKAGE).value == 2
        package = sys.modules[PACKAGE]
    assert importlib.import_module(PACKAGE) is package
    assert len(executed) == len(set(executed)) == 4


def test_what_waited_within_comes_by_itself_when_it_is_asked_later(executed):
    with later_within(PACKAGE):
        stand_in = importlib.import_module(PACKAGE)
    assert stand_in.value == 2
    assert sys.modules[PACKAGE].value == 2


def test_threads_that_ask_at_once_find_one_package(executed):
    later(PACKAGE)
    stand_in, found = importlib.import_module(PACKAGE), []
    threads = [threading.Thread(target=lambda: found.append(stand_in.run)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len({id(one) for one in found}) == 1
    assert executed.count("__init__.py") == 1


def test_what_is_there_stays_as_it_is_and_what_is_not_is_missing_as_ever(executed):
    package = importlib.import_module(PACKAGE)
    later(PACKAGE)
    assert importlib.import_module(PACKAGE) is package
    later("circuits_is_nowhere")
    later("circuits_is_nowhere.either")
    later(f"{PACKAGE}.third")  # no package
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("circuits_is_nowhere")
    assert importlib.import_module(f"{PACKAGE}.third").of_third == 3
    with pytest.raises(AttributeError):
        _ = package.nothing


def test_a_compiler_that_comes_late_hears_what_it_was_told(executed, tmp_path):
    text = """
calls = []
def disable(function, recursive=True, *, reason=None):
    calls.append(("disable", function.__name__, recursive, reason))
    return lambda *args: ("left", function(*args))
def allow_in_graph(function): calls.append(("allow", function.__name__))
def assume_constant_result(function): calls.append(("constant", function.__name__))
"""
    (tmp_path / PACKAGE / "__init__.py").write_text(text)
    later(PACKAGE, Compiler, {"alone"})
    compiler = importlib.import_module(PACKAGE)

    @compiler.disable
    def plain(x):
        return x

    @compiler.disable(recursive=False, reason="why")
    def asked(x):
        return -x

    @compiler.allow_in_graph
    @compiler.assume_constant_result
    def whole():
        return 5

    assert (plain(1), asked(1), whole()) == (1, -1, 5)
    assert plain.__name__ == "plain"
    assert compiler.is_waiting
    assert [] != compiler.calls == [("constant", "whole"), ("allow", "whole")]
    assert [plain(1), plain(2), asked(1), whole()] == [("left", 1), ("left", 2), ("left", -1), 5]
    assert compiler.calls[2:] == [("disable", "plain", True, None), ("disable", "asked", False, "why")]
